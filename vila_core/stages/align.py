"""Stage 1 of VILA: join tower and language model by a projector, and train it on captions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import Field

from vila_core.model.presets import ModelConfig, load_preset
from vila_core.stages._training import Part, TrainingConfig, build_model, train_model
from vila_core.train.config import TrainConfig
from vila_core.train.launch import in_processes
from vila_core.types import QUIET, Mirror, Reporter, StageResult


class Config(TrainingConfig):
    """Alignment (paper section 2, stage 0): only the projector trains, on captioned images."""

    model: ModelConfig = Field(
        default_factory=lambda: load_preset("miniature").model,
        description="how vision tower and language model are joined",
    )
    trains: tuple[Part, ...] = ("projector",)
    mixture: Mapping[str, float] = Field(default={"coyo": 1.0}, description="captioned images")
    train: TrainConfig = TrainConfig(steps=150, lr=3e-3, warmup_steps=5)


@in_processes
def run(
    config: Config,
    inputs: Mapping[str, Path],
    out_dir: Path,
    report: Reporter = QUIET,
    mirror: Mirror | None = None,
) -> StageResult:
    """Build the model from `vision_tower` and `language_model`, align it on `data`, and save it."""
    load = partial(build_model, inputs["vision_tower"], inputs["language_model"], config.model)
    return train_model(config, load, inputs.get("data"), out_dir, report, mirror)
