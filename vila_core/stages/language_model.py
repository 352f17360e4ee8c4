"""The base language model: the miniature's own, trained here, or one from a local folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from vila_core.config import Frozen
from vila_core.miniature.config import LanguageConfig
from vila_core.train.config import TrainConfig
from vila_core.types import QUIET, Reporter, StageResult

MINIATURE = "miniature"


class Config(Frozen):
    """Where the base language model comes from."""

    source: str = Field(
        MINIATURE,
        description="'miniature' trains the embedded world's model; anything else is a local "
        "transformers folder of a causal LM (config.json, safetensors, tokenizer files)",
    )
    miniature: LanguageConfig = Field(
        LanguageConfig.model_validate({}), description="used when source is 'miniature'"
    )
    train: TrainConfig = Field(
        TrainConfig(
            steps=1700,
            lr=4e-3,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup_steps=50,
            min_lr_ratio=0.05,
            save_every=200,
        ),
        description="used when source is 'miniature'",
    )

    def outside(self) -> list[Path]:
        """Return the folder that is imported, if any."""
        return [] if self.source == MINIATURE else [Path(self.source)]


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Train or import the language model; output `model`, a transformers folder with a tokenizer.

    An imported tokenizer without `<image>` gets it as a special token beyond the vocabulary. Raises
    UserError for a folder that holds no such model, or only pickled weights.
    """
    folder = out_dir / "model"
    if config.source != MINIATURE:
        from vila_core.stages.importing import import_language_model

        import_language_model(Path(config.source), folder, report)
        return StageResult({"model": folder})

    import torch

    from vila_core.miniature.language import RowSource, build_language_model, weighted_loss
    from vila_core.miniature.words import write_tokenizer
    from vila_core.train.loop import fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.miniature.seed)
        model = build_language_model(config.miniature.model)
    source = RowSource(config.miniature, config.train.steps)
    result = fit(model, source, config.train, loss_fn=weighted_loss, out_dir=out_dir, report=report)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return StageResult({"model": folder}, result.metrics())
