"""Write the golden loss curves anew, after a change that is meant to move them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.train.test_train_stages import GOLDEN, make_parts, stage_losses
from tests.train.tiny import Recorder, settings, train


def write(name: str, losses: list[float]) -> None:
    text = "".join(f"{loss!r}\n" for loss in losses)
    (GOLDEN / f"{name}_losses.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    report = Recorder()
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "tiny", settings(packs_per_step=2), report=report)
        write("tiny", report.losses)
        made = make_parts(Path(folder))
        for stage, losses in stage_losses(made, Path(folder) / "stages").items():
            write(stage, losses)
