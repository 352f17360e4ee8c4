"""A stage that trains the tiny model slowly enough to be killed on the way."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.train.tiny import TinyModel, TinySource, tiny_loss
from vila_core.config import Frozen
from vila_core.errors import UserError
from vila_core.train.config import TrainConfig
from vila_core.train.launch import in_processes
from vila_core.train.loop import fit
from vila_core.types import QUIET, Batch, Mirror, Reporter, StageResult


class Config(Frozen):
    seconds: float = 0.0
    fail_rank: int = -1
    train: TrainConfig = TrainConfig(steps=30, lr=0.02, save_every=2, keep_every=10)


class Slow(TinySource):
    def __init__(self, config: Config) -> None:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        super().__init__(config.train.packs_per_step, rank=rank, world=world)
        self.seconds, self.fail_rank = config.seconds, config.fail_rank

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        for step in super().steps(state):
            if self.rank == self.fail_rank:
                raise UserError("corpus.jsonl:3: the line is not JSON; fix or remove it.")
            time.sleep(self.seconds)
            yield step


@in_processes
def run(
    config: Config,
    inputs: Mapping[str, Path],
    out_dir: Path,
    report: Reporter = QUIET,
    mirror: Mirror | None = None,
) -> StageResult:
    model, source = TinyModel(), Slow(config)
    done = fit(
        model,
        source,
        config.train,
        loss_fn=tiny_loss,
        out_dir=out_dir,
        report=report,
        mirror=mirror,
    )
    folder = out_dir / "result"
    folder.mkdir(exist_ok=True)
    if done.rank == 0:
        save_file(dict(model.state_dict()), folder / "model.safetensors")
    return StageResult({"result": folder}, {"resumed_from": float(done.resumed_from or 0)})
