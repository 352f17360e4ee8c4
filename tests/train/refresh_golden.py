"""Write the golden loss curve anew, after a change that is meant to move it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.train.tiny import Recorder, settings, train

if __name__ == "__main__":
    report = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), settings(packs_per_step=2), report=report)
    golden = Path(__file__).parent / "golden" / "tiny_losses.txt"
    golden.parent.mkdir(exist_ok=True)
    golden.write_text("".join(f"{loss!r}\n" for loss in report.losses), encoding="utf-8")
