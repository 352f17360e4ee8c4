"""Stage 2 of VILA: train projector and language model on interleaved documents and captions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import Field

from vila_core.stages._training import Part, TrainingConfig, load_model, train_model
from vila_core.train.config import TrainConfig
from vila_core.train.launch import in_processes
from vila_core.types import QUIET, Mirror, Reporter, StageResult


class Config(TrainingConfig):
    """Visual language pre-training (paper sections 3.1 and 3.2): interleaved documents keep text
    ability and bring in-context learning; captions beside them bring diversity.
    """

    trains: tuple[Part, ...] = ("projector", "language_model")
    mixture: Mapping[str, float] = Field(
        default={"mmc4": 0.5, "coyo": 0.5}, description="interleaved documents and captioned images"
    )
    train: TrainConfig = TrainConfig(steps=400, lr=1e-3, lr_projector=2e-3, warmup_steps=10)


@in_processes
def run(
    config: Config,
    inputs: Mapping[str, Path],
    out_dir: Path,
    report: Reporter = QUIET,
    mirror: Mirror | None = None,
) -> StageResult:
    """Continue the model `base` on `data`, and save it."""
    load = partial(load_model, inputs["base"])
    return train_model(config, load, inputs.get("data"), out_dir, report, mirror)
