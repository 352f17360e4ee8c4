"""What `align`, `pretrain` and `sft` share: a model, parts of it that train, a mixture, one `fit`.

Imports nothing heavy at the top: the command line reads the stages' configs.
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vila_core.config import Frozen
from vila_core.data.templates import NAMES
from vila_core.errors import UserError, require
from vila_core.stages._counts import counted_corpora
from vila_core.stages._parts import PART
from vila_core.train.config import LoraConfig, TrainConfig
from vila_core.types import Mirror, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.data.corpus import Corpus
    from vila_core.data.encode import Encoder
    from vila_core.data.loader import ImageTransform, PackLoader
    from vila_core.model import ModelConfig, VilaForConditionalGeneration, VilaProcessor

Part = Literal["vision_tower", "projector", "language_model"]


class TrainingConfig(Frozen):
    """What the three training stages have in common. Their defaults are the miniature recipe's."""

    trains: tuple[Part, ...] = Field(description="the parts that train; the others stay frozen")
    mixture: Mapping[str, float] = Field(
        description="corpora of the prepared data, with their weights"
    )
    mixture_by: Literal["tokens", "supervised"] = Field(
        default="tokens", description="what a weight counts: all tokens or supervised ones"
    )
    max_epochs: Mapping[str, float] = Field(
        default={},
        description="how often a corpus may be repeated; afterwards the others share its weight",
    )
    data: str | None = Field(
        default=None,
        description="where the corpora are instead of in the data of the prepare task: a folder, "
        "or, streamed through the shard cache, s3://bucket/prefix or dvc:PATH@REV",
    )
    templates: Mapping[str, str] = Field(
        default={},
        description="corpora of the mixture that are laid out by another template than the one "
        "they were prepared with; `vila data count` counts them first",
    )
    shuffle_shards: int | None = Field(
        default=None,
        gt=0,
        description="samples are shuffled among so many shards of a corpus at a time; default: all",
    )
    pack_tokens: int = Field(
        default=1024, gt=0, description="tokens per pack, image tokens included"
    )
    pack_images: int = Field(default=96, gt=0, description="images per pack")
    window: int | None = Field(
        default=None, gt=0, description="samples among which packs are planned; default: by size"
    )
    num_workers: int = Field(default=0, ge=0, description="processes that read and decode ahead")
    lora: LoraConfig | None = Field(
        default=None,
        description="train adapters of the language model, not its weights; merged at the end",
    )
    train: TrainConfig = Field(description="optimisation, engine and checkpoints")

    @field_validator("lora")
    @classmethod
    def _adapts_what_trains(
        cls, lora: LoraConfig | None, info: ValidationInfo
    ) -> LoraConfig | None:
        if lora is not None and "language_model" not in info.data.get("trains", ()):
            raise ValueError("it adapts the language model, which `trains` doesn't name")
        return lora

    @field_validator("mixture")
    @classmethod
    def _positive(cls, mixture: Mapping[str, float]) -> Mapping[str, float]:
        if not mixture:
            raise ValueError("at least one corpus is needed")
        for name, weight in mixture.items():
            if not weight > 0:
                raise ValueError(f"the weight of '{name}' is {weight}; weights are above zero")
        return mixture

    @model_validator(mode="after")
    def _caches_what_is_frozen(self) -> TrainingConfig:
        if self.train.cache_features and "vision_tower" in self.trains:
            raise ValueError(
                "train.cache_features keeps the features of a frozen vision tower, but `trains` "
                "names vision_tower; take it out, or set train.cache_features to 0"
            )
        return self

    @field_validator("templates")
    @classmethod
    def _known_templates(
        cls, templates: Mapping[str, str], info: ValidationInfo
    ) -> Mapping[str, str]:
        for name, template in templates.items():
            if name not in info.data.get("mixture", templates):
                raise ValueError(f"the mixture has no corpus '{name}'")
            if template not in NAMES:
                raise ValueError(f"'{template}': known templates are {', '.join(NAMES)}")
        return templates

    @model_validator(mode="after")
    def _limits_name_the_mixture(self) -> TrainingConfig:
        for name, limit in self.max_epochs.items():
            if name not in self.mixture:
                raise ValueError(f"max_epochs.{name}: the mixture has no corpus '{name}'")
            if not 0 < limit < float("inf"):
                raise ValueError(f"max_epochs.{name}: {limit} is no number of epochs above zero")
        return self

    def cache_key(self) -> dict[str, Any]:
        """Return the resolved config; of an address by content, only what names the content."""
        return super().cache_key() | ({"data": self._content} if self._content else {})

    def outside(self) -> list[Path | str]:
        """Return where the corpora are, unless in the data of prepare or named by content."""
        if self.data is None or self._content:
            return []
        remote = "://" in self.data or self.data.startswith("dvc:")
        return [self.data if remote else Path(self.data).expanduser()]

    def streamed(self, uris: Mapping[str, str]) -> tuple[TrainingConfig, frozenset[str]]:
        """Read the corpora of the prepare task from where they are, if from nowhere else."""
        if self.data is None and "data" in uris:
            address = f"artifact+{uris['data']}"
            return self.model_copy(update={"data": address}), frozenset(["data"])
        return self, frozenset(["data"]) if self.data is not None else frozenset()

    @property
    def _content(self) -> str | None:
        from vila_core.data.by_content import content_of

        return None if self.data is None else content_of(self.data)


def train_model(
    config: TrainingConfig,
    load: Callable[[], tuple[VilaForConditionalGeneration, VilaProcessor]],
    data: Path | None,
    out_dir: Path,
    report: Reporter,
    mirror: Mirror | None = None,
) -> StageResult:
    """Load a model, freeze it by stage, train it on the mixture and save it to `out_dir/model`.

    The corpora are in `config.data`, else in `data`, which is None where it was not fetched.
    Raises UserError when a corpus of the mixture isn't there, and what `fit` raises.
    """
    for module in ("torch", "transformers"):
        require(module, extra="train", why="train a model")
    from vila_core.data.encode import Encoder
    from vila_core.model import freeze, save
    from vila_core.train.engine import choose_device
    from vila_core.train.loop import fit
    from vila_core.train.loss import vila_loss

    where = config.data or data
    if where is None:
        raise ValueError("neither the config nor the inputs say where the corpora are")
    if config.data is not None:
        report.info(f"the corpora are read from {config.data}")
    corpora = open_corpora(where, config.mixture)
    model, processor = load()
    counts = freeze(model, config.trains)
    adapters = None
    if config.lora is not None:
        from vila_core.train.lora import Adapters

        adapters = Adapters(model.language_model, config.lora, seed=config.train.seed)
        model.adapter_settings = adapters.settings
        counts["language_model"] = adapters.num_parameters
    trained = ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
    report.info(f"trains {trained} parameters; all else is frozen")
    features = None
    if config.train.cache_features:
        from vila_core.train.features import FeatureCache

        features = FeatureCache(model, processor.settings(), config.train, out_dir, report)
    encoder = Encoder(
        processor.tokenizer,
        next(iter(corpora.values())).template,  # the loader takes each corpus's own
        model.config.image_token_id,
        model.config.tokens_per_image,
    )
    loader = mixture_loader(
        config,
        corpora,
        encoder,
        processor.transform_bytes,
        rank=int(os.environ.get("RANK", "0")),
        world=int(os.environ.get("WORLD_SIZE", "1")),
        num_workers=config.num_workers,
        pin=choose_device(config.train).type == "cuda",
        digest_images=features is not None,
    )
    result = fit(
        model,
        loader,
        config.train,
        loss_fn=vila_loss,
        out_dir=out_dir,
        report=report,
        pack_tokens=config.pack_tokens,
        mirror=mirror,
        features=features,
    )
    metrics = result.metrics()
    for name, consumed in loader.realised(result.source_state).items():
        metrics[f"tokens_share/{name}"] = consumed["tokens_share"]
        metrics[f"supervised_share/{name}"] = consumed["supervised_share"]
        metrics[f"epochs/{name}"] = consumed["epochs"]
    if result.rank == 0:
        for line in loader.table(result.source_state):
            report.info(line)
    folder = out_dir / "model"
    if result.rank == 0:
        shutil.rmtree(out_dir / "features", ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off while saving
        folder.mkdir(parents=True)
        if adapters is not None:
            adapters.save(folder / "adapter")
            model.language_model = adapters.merge()
        save(model, processor, folder)
    return StageResult({"model": folder}, metrics)


def mixture_loader(
    config: TrainingConfig,
    corpora: Mapping[str, Corpus],
    encoder: Encoder,
    image_transform: ImageTransform,
    **placing: Any,
) -> PackLoader:
    """Return the loader of a stage: what is drawn in which step hangs on these arguments alone.

    `encoder` has the model's tokenizer and tokens per image; `placing` (rank, workers, …) changes
    no draw. Raises UserError where nobody has counted a corpus with that tokenizer, and what
    `PackLoader` raises.
    """
    from vila_core.data.loader import PackLoader

    loader = PackLoader(
        counted_corpora(corpora, encoder, config.templates),
        config.mixture,
        encoder,
        image_transform,
        pack_tokens=config.pack_tokens,
        pack_images=config.pack_images,
        packs_per_step=config.train.packs_per_step,
        window=config.window,
        mixture_by=config.mixture_by,
        max_epochs=config.max_epochs,
        shuffle_shards=config.shuffle_shards,
        seed=config.train.seed,
        **placing,
    )
    loader.check_enough(config.train.steps)
    return loader


def load_model(folder: Path) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """Load the model that an earlier stage saved."""
    from vila_core.model import load

    return load(folder)


def build_model(
    vision_tower: Path, language_model: Path, config: ModelConfig
) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """Join a vision tower and a language model by a fresh projector."""
    from vila_core.model import build

    return build(vision_tower, language_model, config)


def open_corpora(data: str | Path, mixture: Mapping[str, float]) -> dict[str, Corpus]:
    """Open the corpora that the mixture names, in `data` or in `corpora` below it.

    Raises UserError for one that isn't there, StoreError for a store that can't be read.
    """
    from vila_core.data.corpus import Corpus
    from vila_core.data.location import corpora_at

    where = corpora_at(data)
    there = where.names()
    if PART in there:
        raise UserError(
            f"{where.uri}: is one part of a prepare, with duplicates still in it.\n"
            "  fix: join all parts (vila data merge OUT PART…) and train on OUT."
        )
    for name in mixture:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            known = f"prepared corpora: {', '.join(there) or 'none'}"
            fix = f"did you mean '{close[0]}'?" if close else f"{known}."
            raise UserError(f"mixture.{name}: {where.uri} has no corpus '{name}'; {fix}")
    return {name: Corpus.open(where.below(name)) for name in mixture}
