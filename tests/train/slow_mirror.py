"""A mirror of checkpoints in a folder that takes its time, for what happens meanwhile."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

MANIFEST = "manifest.json"


class SlowMirror:
    """Copies a checkpoint after `seconds`, its manifest last."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def steps(self) -> list[int]:
        return [int(path.parent.name[5:]) for path in self.folder.glob(f"step-*/{MANIFEST}")]

    def push(self, step: int, folder: Path) -> None:
        time.sleep(self.seconds)
        target = self.folder / f"step-{step}"
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(MANIFEST))
        shutil.copy(folder / MANIFEST, target)

    def pull(self, step: int, folder: Path) -> None:
        shutil.copytree(self.folder / f"step-{step}", folder)

    def remove(self, step: int) -> None:
        shutil.rmtree(self.folder / f"step-{step}")
