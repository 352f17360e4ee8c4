"""The vision tower: the miniature's own, trained here, or one from a local transformers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from vila_core.config import Frozen
from vila_core.miniature.config import TowerConfig
from vila_core.train.config import TrainConfig
from vila_core.types import QUIET, Reporter, StageResult

MINIATURE = "miniature"


class Config(Frozen):
    """Where the vision tower comes from."""

    source: str = Field(
        MINIATURE,
        description="'miniature' trains the embedded world's tower; anything else is a local "
        "transformers folder of a CLIP or SigLIP, with safetensors and preprocessor_config.json",
    )
    miniature: TowerConfig = Field(
        TowerConfig.model_validate({}), description="used when source is 'miniature'"
    )
    train: TrainConfig = Field(
        TrainConfig(
            steps=400,
            lr=2e-3,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            warmup_steps=50,
            min_lr_ratio=0.05,
            save_every=100,
        ),
        description="used when source is 'miniature'",
    )

    @model_validator(mode="after")
    def _trains_the_tower(self) -> Config:
        if self.train.cache_features:
            raise ValueError(
                "train.cache_features keeps the features of a frozen vision tower, but this stage "
                "trains it; set it to 0"
            )
        return self

    def outside(self) -> list[Path]:
        """Return the folder that is imported, if any."""
        return [] if self.source == MINIATURE else [Path(self.source)]


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Train or import the vision tower; output `model`, a transformers folder.

    Raises UserError for a folder that holds no such tower, or only pickled weights.
    """
    folder = out_dir / "model"
    if config.source != MINIATURE:
        from vila_core.stages.importing import import_vision_tower

        import_vision_tower(Path(config.source), folder, report)
        return StageResult({"model": folder})

    import torch

    from vila_core.miniature.tower import PairSource, PicturePairs, save_tower, sigmoid_loss
    from vila_core.train.loop import fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.miniature.seed)
        model = PicturePairs(config.miniature.vision)
    source = PairSource(config.miniature)
    result = fit(model, source, config.train, loss_fn=sigmoid_loss, out_dir=out_dir, report=report)
    save_tower(model, folder)
    return StageResult({"model": folder}, result.metrics())
