"""The packs that a recipe's training will see, planned from the index of prepared data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.errors import NotFound, UserError
from vila_core.store import FileStore, Store, open_store
from vila_core.train.estimate import Load

if TYPE_CHECKING:
    from vila_core.config import Frozen
    from vila_core.data.corpus import Corpus
    from vila_core.data.loader import PackLoader
    from vila_core.stages._training import TrainingConfig

MOST_PACKS = 2000
"""Packs that are planned; of a longer training, the rest is taken to be like them."""
_NEEDED = ("corpora/", "tokenizer/")


@dataclass(frozen=True)
class Mixed:
    """What a stage's packs hold. `largest` puts together the largest figures of any one pack."""

    per_step: Load
    largest: Load
    fill: float  # share of the packs' room that holds tokens
    packs: int  # that were planned
    of_packs: int
    shares: Mapping[str, float]  # of tokens, by corpus
    epochs: Mapping[str, float]  # over the whole stage, by corpus

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able values."""
        return {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in (
                (key, value) for key, value in asdict(self).items() if key != "per_step"
            )
        }


@dataclass(frozen=True)
class PlannedData:
    """A folder as prepare writes it, and the words for where it was found."""

    folder: Path
    where: str

    @classmethod
    def from_folder(cls, folder: Path) -> PlannedData:
        """Take a folder with `corpora/` in it or in its `data/`. Raises UserError without."""
        for place in (folder, folder / "data"):
            if (place / "corpora").is_dir():
                return cls(place, f"prepared data in {folder}")
        raise UserError(
            f"--data {folder}: holds no corpora/; point to the output `data` of the prepare stage."
        )

    @classmethod
    def from_store(cls, uri: str, prepare: Frozen | None) -> PlannedData | None:
        """Take the newest result in the store of a prepare task with this config, if there is one.

        From a remote store only indexes and tokenizer are fetched, not the shards.
        """
        if prepare is None:
            return None
        store = open_store(uri)
        found = _newest(store, prepare.cache_key())
        if found is None:
            return None
        run, sha256 = found
        return cls(at_hand(store, sha256), f"data that run {run} prepared")

    def mix(self, stage: str, config: TrainingConfig, tokens_per_image: int) -> Mixed:
        """Plan the packs of a stage as its training will. Raises UserError as the training would"""
        import numpy as np

        loader, corpora = planned_loader(self.folder, stage, config, tokens_per_image)
        used = [corpora[name] for name in loader.names]
        counts = [
            np.stack(
                [corpus.lengths(tokens_per_image), corpus.index.num_supervised], axis=1
            ).tolist()
            for corpus in used
        ]
        steps = max(1, min(config.train.steps, MOST_PACKS // config.train.packs_per_step))
        planned = loader.plan(loader.initial_state())
        packs = tokens = images = supervised = squares = text_only = 0
        most = [0, 0, 0]
        state: dict[str, Any] = {}
        for _ in range(steps):
            step, state = next(planned)
            for pack in step:
                rows = [counts[source][sample] for source, sample in pack.draws]
                chosen = sum(row[1] for row in rows)
                squares += sum(row[0] ** 2 for row in rows)
                packs += 1
                tokens += pack.num_tokens
                images += pack.num_images
                supervised += chosen
                text_only += not pack.num_images
                most = [
                    max(*pair)
                    for pair in zip(most, (pack.num_tokens, pack.num_images, chosen), strict=True)
                ]
        realised = loader.realised(state)
        longer = config.train.steps / steps
        sums = (packs, tokens, images, supervised, squares, text_only)
        return Mixed(
            per_step=Load(*(value / steps for value in sums)),
            largest=Load(1, *most, squares=0.0),
            fill=tokens / (packs * config.pack_tokens),
            packs=packs,
            of_packs=config.train.steps * config.train.packs_per_step,
            shares={name: row["tokens_share"] for name, row in realised.items()},
            epochs={name: row["epochs"] * longer for name, row in realised.items()},
        )


def planned_loader(
    folder: Path,
    stage: str,
    config: TrainingConfig,
    tokens_per_image: int,
    tokenizer: Path | None = None,
) -> tuple[PackLoader, dict[str, Corpus]]:
    """Return the loader that a stage's training has, and its corpora; only indexes are read.

    `tokenizer` is the model's folder; without one, the tokenizer that the data were prepared with
    is taken for the model's. Raises UserError as the training would, with the stage's name.
    """
    import torch

    from vila_core.data.encode import Encoder
    from vila_core.data.tokenizer import load_tokenizer
    from vila_core.stages._training import mixture_loader, open_corpora

    try:
        corpora = open_corpora(config.data or folder, config.mixture)
        words = load_tokenizer(tokenizer or folder / "tokenizer")
        encoder = Encoder(words, "plain", image_token_id=0, tokens_per_image=tokens_per_image)
        # No image is read.
        loader = mixture_loader(config, corpora, encoder, lambda _image: torch.zeros(3, 1, 1))
    except UserError as error:
        raise UserError(f"{stage}: {error}") from None
    return loader, dict(corpora)


def _newest(store: Store, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return run and artifact digest of the newest prepare result with this config."""
    from vila_ops.run_index import RunIndex

    found: dict[str, str] = {}
    for name in store.children("cache"):
        entry = json.loads(store.read(f"cache/{name}"))
        parts = entry.get("key_parts") or {}
        if parts.get("stage") == "prepare" and parts.get("config") == config:
            found[entry["run_id"]] = entry["outputs"]["data"]["sha256"]
    for run in RunIndex(store).ids():  # newest first
        if run in found:
            return run, found[run]
    return None


def at_hand(store: Store, sha256: str) -> Path:
    """Return a folder with the artifact's indexes and tokenizer."""
    if isinstance(store, FileStore):
        return store.local_path(f"artifacts/{sha256}")
    from vila_core.store.artifacts import cache_folder

    folder = cache_folder() / "plan" / sha256
    try:
        entries = json.loads(store.read(f"artifacts/{sha256}/manifest.json"))["files"]
    except NotFound:
        raise UserError(
            f"{store.uri}/artifacts/{sha256}: the prepared data are gone.\n"
            "  fix: prepare them again (vila run), or give a copy with --data."
        ) from None
    for entry in entries:
        path = entry["path"]
        if path.startswith(_NEEDED) and not path.endswith(".tar") and not (folder / path).exists():
            store.download(f"artifacts/{sha256}/{path}", folder / path)
    return folder
