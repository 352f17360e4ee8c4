"""Stage 3 of VILA: supervised fine-tuning on visual instructions blended with text-only ones."""

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
    """Instruction tuning (paper section 3.3): text-only instructions blended in give back the text
    ability that pre-training cost.
    """

    trains: tuple[Part, ...] = ("projector", "language_model")
    mixture: Mapping[str, float] = Field(
        default={"llava": 0.5, "flan": 0.5}, description="visual and text-only instructions"
    )
    train: TrainConfig = TrainConfig(steps=500, lr=1.5e-3, warmup_steps=10)


@in_processes
def run(
    config: Config,
    inputs: Mapping[str, Path],
    out_dir: Path,
    report: Reporter = QUIET,
    mirror: Mirror | None = None,
) -> StageResult:
    """Fine-tune the model `base` on `data`, and save it."""
    load = partial(load_model, inputs["base"])
    return train_model(config, load, inputs.get("data"), out_dir, report, mirror)
