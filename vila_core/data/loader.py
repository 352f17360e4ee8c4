"""From prepared corpora to training steps; the order is a pure function of seed and position.

The plan (which sample in which pack, which packs in which step) comes first, from the indexes.
Only then are packs dealt to ranks and workers, so their number changes nothing in it: a worker is
handed whole packs and gives each back as a finished batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vila_core.data.cache import ShardCache
from vila_core.data.collate import collate
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.mixture import Mixture, Source, check_weights
from vila_core.data.packing import Pack, Planner, PlanState, deal
from vila_core.data.readahead import ReadAhead, check_room, shards_of
from vila_core.data.realised import COUNTED, realised, table
from vila_core.errors import UserError, VilaError
from vila_core.jsonio import digest
from vila_core.types import Batch

ImageTransform = Callable[[bytes], torch.Tensor]  # from an encoded image to (3, H, W)
State = dict[str, Any]
_PREFETCH = 4
_WINDOW_PACKS = 32
_PLAN_VERSION = 2  # raised when the same settings give another order


class PackLoader:
    """The `StepSource` of the stages that train the VLM.

    `weights` are shares by corpus name, of `mixture_by`: tokens (text and image places together) or
    supervised tokens; corpora without one stay out. `max_epochs` says how often a corpus may be
    drawn through; after that the others share its weight. Each corpus is written out by the
    template it was counted with. A step has `packs_per_step` packs over all ranks. A pack has at
    most `pack_tokens` tokens and `pack_images` images; packs are planned per `window` draws, and no
    token is dropped. Without `window`, it is as many draws as should fill 32 packs: the last pack
    of each window is not full. `pin` puts batches into page-locked memory ahead of time, from which
    a GPU copies while it computes. `digest_images` fills `Batch.image_digests`. `shuffle_shards` is
    among how many shards of a corpus samples are shuffled at a time (default: all); corpora larger
    than the shard cache need it.

    Raises UserError for an unknown corpus, for a sample that is larger than a pack, and when
    `packs_per_step` can't be dealt evenly to `world` ranks.
    """

    def __init__(
        self,
        corpora: Mapping[str, Corpus],
        weights: Mapping[str, float],
        encoder: Encoder,
        image_transform: ImageTransform,
        *,
        pack_tokens: int,
        pack_images: int,
        packs_per_step: int,
        window: int | None = None,
        mixture_by: Literal["tokens", "supervised"] = "tokens",
        max_epochs: Mapping[str, float] | None = None,
        shuffle_shards: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        pin: bool = False,
        digest_images: bool = False,
    ) -> None:
        # By name: a config may come back from JSON with its keys sorted.
        chosen = dict(sorted(check_weights(weights, list(corpora)).items()))
        self.names = tuple(chosen)
        used = [corpora[name] for name in chosen]
        if packs_per_step % world:
            raise UserError(
                f"packs_per_step: {packs_per_step} packs can't be dealt evenly to {world} ranks; "
                f"use a multiple of {world}."
            )
        lengths = [corpus.lengths(encoder.tokens_per_image) for corpus in used]
        images = [corpus.index.num_images for corpus in used]
        for corpus, tokens_N, images_N in zip(used, lengths, images, strict=True):
            _check_fit(corpus, tokens_N, pack_tokens, "tokens", "pack_tokens")
            _check_fit(corpus, images_N, pack_images, "images", "pack_images")
        limits = max_epochs or {}
        sources = [
            _source(corpus, name, tokens_N, mixture_by, limits.get(name), shuffle_shards)
            for corpus, name, tokens_N in zip(used, chosen, lengths, strict=True)
        ]
        mixture = Mixture(sources, list(chosen.values()), seed)
        window = window or _draws_for(_WINDOW_PACKS, mixture, images, pack_tokens, pack_images)
        budgets = {"pack_tokens": pack_tokens, "pack_images": pack_images}
        self._planner = Planner(mixture, images, **budgets, window=window, seed=seed)
        self._cache: ShardCache | None = None
        if any(corpus.remote for corpus in used):
            self._cache = ShardCache.from_environment()
            check_room([corpus.remote for corpus in used], shuffle_shards, self._cache.budget)
            # Of its own, for another thread.
            again = Mixture(sources, list(chosen.values()), seed)
            self._ahead = Planner(again, images, **budgets, window=window, seed=seed)
        self._counts = [
            np.stack(
                [np.ones_like(tokens_N), tokens_N, corpus.index.num_supervised, images_N], axis=1
            )
            for corpus, tokens_N, images_N in zip(used, lengths, images, strict=True)
        ]
        self.mixture_by: Literal["tokens", "supervised"] = mixture_by
        self.asked = dict(zip(chosen, mixture.shares, strict=True))
        self._pack_tokens = pack_tokens
        self._dataset = _Packs(used, encoder, lengths, image_transform, digest_images)
        self._packs_per_step = packs_per_step
        self._rank, self._world, self._num_workers, self._pin = rank, world, num_workers, pin
        self.fingerprint = digest(
            {
                "corpora": {corpus.name: corpus.digest for corpus in used},
                "templates": {corpus.name: corpus.template for corpus in used},
                "weights": list(chosen.items()),
                "tokens_per_image": encoder.tokens_per_image,
                "plan": _PLAN_VERSION,
                "mixture_by": mixture_by,
                "max_epochs": [(source.name, source.max_epochs) for source in sources],
                "pack": [pack_tokens, pack_images, window],
                "seed": seed,
                **({"shuffle_shards": shuffle_shards} if shuffle_shards else {}),
            }
        )

    def initial_state(self) -> State:
        """Return the state before the first step: a few integers."""
        counted = {name: dict.fromkeys(COUNTED, 0) for name in self.names}
        return {"plan": self._planner.start().to_json(), "consumed": counted}

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], State]]:
        """Yield this rank's batches of each step from `state` on, with the state after the step."""
        planned: deque[tuple[int, State]] = deque()
        loader = DataLoader(
            self._dataset,
            sampler=_Handed(self, state, planned),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=_PREFETCH if self._num_workers else None,
            pin_memory=self._pin,
            # A generator of its own, so that the training's random state is not touched.
            generator=torch.Generator().manual_seed(0),
        )
        batches = iter(loader)  # workers are forked here, before there are threads
        with self._reading_ahead(state) as reached:
            for first in batches:
                step = [_unwrap(first)]
                count, after = planned.popleft()
                step += [_unwrap(next(batches)) for _ in range(count - 1)]
                yield step, after
                reached(after["plan"]["window"])
        raise UserError(f"the mixture has no more data: {self._limits()}.")

    @contextlib.contextmanager
    def _reading_ahead(self, state: Mapping[str, Any]) -> Iterator[Callable[[int], None]]:
        """Fetch shards ahead of the steps from `state` on; yield what takes the window reached."""
        if self._cache is None:
            yield lambda window: None
            return
        windows = self._ahead.windows(PlanState.from_json(state["plan"]))
        ahead = ReadAhead(shards_of(windows, self._dataset.corpora), self._cache)
        try:
            yield ahead.reached
        finally:
            ahead.close()

    def plan(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Pack], State]]:
        """Yield the packs of each step, over all ranks in global order, and the state after it."""
        consumed = [
            np.array([state["consumed"][name][kind] for kind in COUNTED]) for name in self.names
        ]
        packs = self._planner.packs(PlanState.from_json(state["plan"]))
        while len(step := list(islice(packs, self._packs_per_step))) == self._packs_per_step:
            samples: list[list[int]] = [[] for _ in self.names]
            for pack, _ in step:
                for source, sample in pack.draws:
                    samples[source].append(sample)
            for source, some in enumerate(samples):
                consumed[source] = consumed[source] + self._counts[source][some].sum(axis=0)
            counted = {
                name: dict(zip(COUNTED, row.tolist(), strict=True))
                for name, row in zip(self.names, consumed, strict=True)
            }
            _, after = step[-1]
            yield [pack for pack, _ in step], {"plan": after.to_json(), "consumed": counted}

    def check_enough(self, steps: int) -> None:
        """Raise UserError if repeat limits end the data before `steps` steps are done."""
        limits = [source.max_draws for source in self._planner.mixture.sources]
        needed = steps * self._packs_per_step
        if None in limits:
            return
        tokens = sum(
            float(source.lengths.mean()) * (source.max_draws or 0)
            for source in self._planner.mixture.sources
        )
        if tokens >= 1.01 * needed * self._pack_tokens:  # surely: no pack holds more
            return
        found = sum(1 for _ in islice(self._planner.packs(self._planner.start()), needed))
        if found < needed:
            raise UserError(
                f"max_epochs: {steps} steps need {needed:,} packs, but the mixture ends after "
                f"{found:,} packs ({found // self._packs_per_step:,} steps): {self._limits()}.\n"
                "  fix: fewer train.steps, more max_epochs, or a corpus without a limit."
            )

    def _limits(self) -> str:
        return ", ".join(
            f"{source.name} has {len(source.lengths):,} samples for {source.max_epochs:g} epochs"
            for source in self._planner.mixture.sources
            if source.max_epochs is not None
        )

    def table(self, state: Mapping[str, Any]) -> list[str]:
        """Return lines that tell, per corpus, the asked and the realised share up to `state`."""
        return table(self.realised(state), self.asked, self.mixture_by)

    def realised(self, state: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return what was consumed up to `state`, per corpus: see `realised.realised`."""
        sizes = {name: len(rows) for name, rows in zip(self.names, self._counts, strict=True)}
        return realised(state["consumed"], sizes)

    def hand(self, step: list[Pack]) -> list[Pack]:
        """Return this rank's packs of a step."""
        return deal(step, self._world)[self._rank]


class _Handed:
    """The sampler: this rank's packs in order. Notes for each step how many there are."""

    def __init__(
        self, loader: PackLoader, state: Mapping[str, Any], planned: deque[tuple[int, State]]
    ) -> None:
        self._loader, self._state, self._planned = loader, state, planned

    def __iter__(self) -> Iterator[Pack]:
        for step, after in self._loader.plan(self._state):
            hand = self._loader.hand(step)
            self._planned.append((len(hand), after))
            yield from hand


class _Packs(Dataset["Batch | VilaError"]):
    """Reads, decodes and encodes one pack. Runs in the workers."""

    def __init__(
        self,
        corpora: list[Corpus],
        encoder: Encoder,
        lengths: list[np.ndarray],
        image_transform: ImageTransform,
        digest_images: bool,
    ) -> None:
        from PIL import Image

        self.corpora, self._lengths = corpora, lengths
        self._encoders = [encoder.with_template(corpus.template) for corpus in corpora]
        for corpus, its in zip(corpora, self._encoders, strict=True):
            if its.chat_template != corpus.manifest.get("chat_template_sha256"):
                raise UserError(
                    f"corpus '{corpus.name}' was prepared with another chat template than that of "
                    "the model's tokenizer.\n"
                    "  fix: prepare it with the tokenizer of the model that is trained."
                )
        self._transform, self._digest_images = image_transform, digest_images
        probe = io.BytesIO()
        Image.new("RGB", (32, 32)).save(probe, "PNG")
        self._image_shape = tuple(image_transform(probe.getvalue()).shape)

    def __getitem__(self, pack: Pack) -> Batch | VilaError:
        try:
            return self._batch(pack)
        except VilaError as error:
            return error  # raised by the main process, as itself and without a worker's traceback

    def _batch(self, pack: Pack) -> Batch:
        encoded, images, keys = [], [], []
        for source, number in pack.draws:
            sample = self.corpora[source].read(number)
            one = self._encoders[source].encode(sample)
            planned = int(self._lengths[source][number])
            if len(one.input_ids) != planned:
                raise UserError(
                    f"{sample.key}: {len(one.input_ids)} tokens, but the index counted {planned}.\n"
                    "  fix: prepare the corpus with the tokenizer of the model that is trained."
                )
            learnt = int(self.corpora[source].index.num_supervised[number])
            if one.num_supervised != learnt:
                raise UserError(
                    f"{sample.key}: {one.num_supervised} tokens carry loss, but the index counted "
                    f"{learnt}.\n"
                    "  fix: prepare the corpus with the tokenizer of the model that is trained."
                )
            encoded.append(one)
            images += [sample.images[n] for n in one.image_indices]
            keys.append(sample.key)
        batch = collate(encoded, list(map(self._transform, images)), keys, self._image_shape)
        if self._digest_images:
            batch.image_digests = tuple(hashlib.sha256(image).digest() for image in images)
        return batch


def _unwrap(batch: Batch | VilaError) -> Batch:
    if isinstance(batch, VilaError):
        raise batch
    return batch


def _source(
    corpus: Corpus,
    name: str,
    tokens_N: np.ndarray,
    by: str,
    max_epochs: float | None,
    shuffle_shards: int | None,
) -> Source:
    counted = corpus.index.num_supervised if by == "supervised" else None
    if counted is not None and not counted.any():
        raise UserError(
            f"mixture.{name}: no token of this corpus is supervised, so it can't have a share of "
            "supervised tokens.\n  fix: mixture_by: tokens, or leave the corpus out."
        )
    return Source(name, tokens_N, counted, max_epochs, corpus.index.shard, shuffle_shards)


def _draws_for(
    packs: int, mixture: Mixture, images: Sequence[np.ndarray], pack_tokens: int, pack_images: int
) -> int:
    """Return how many draws are expected to fill `packs` packs, by tokens or by images."""
    draws, tokens, shown = 0.0, 0.0, 0.0  # per token that the shares count
    for source, share, images_N in zip(mixture.sources, mixture.shares, images, strict=True):
        of_it = share / float(source.counts.mean())
        draws += of_it
        tokens += of_it * float(source.lengths.mean())
        shown += of_it * float(images_N.mean())
    per_pack = max(draws * min(pack_tokens / tokens, pack_images / max(shown, 1e-9)), 1.0)
    return max(1, round(packs * per_pack))


def _check_fit(corpus: Corpus, sizes_N: np.ndarray, limit: int, what: str, setting: str) -> None:
    over = np.flatnonzero(sizes_N > limit)
    if len(over):
        worst = int(np.argmax(sizes_N))
        raise UserError(
            f"{setting}: {limit} {what} are too few for {len(over)} of {len(corpus)} samples of "
            f"'{corpus.name}'; the largest, {corpus.key(worst)}, has {int(sizes_N[worst])}. "
            f"Samples are never cut.\n  fix: {setting} of {int(sizes_N[worst])} or more, or limits "
            "in prepare (prepare.limits.max_tokens, max_images), which set such samples aside."
        )
