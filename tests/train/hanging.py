"""Run as one of two ranks: rank 1 stands still for a while in the forward pass of step 3."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.train.tiny import Recorder, TinyModel, TinySource, settings, tiny_loss
from vila_core.train.loop import fit
from vila_core.types import Batch


def slow_loss(model: Any, batch: Batch) -> torch.Tensor:
    if batch.sample_keys == ("tiny/00000/000005",):
        time.sleep(5)
    return tiny_loss(model, batch)


def main(out_dir: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    config = settings(engine="deepspeed", packs_per_step=2, steps=4, watchdog_s=1.5, save_every=0)
    report, source = Recorder(), TinySource(2, rank=rank, world=world)
    model = TinyModel(dropout=0.0)
    fit(model, source, config, loss_fn=slow_loss, out_dir=out_dir, report=report)
    if rank == 0:
        (out_dir / "attached.json").write_text(json.dumps(sorted(report.files)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
