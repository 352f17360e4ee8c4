"""Demonstrations for few-shot questions, by OpenFlamingo's rules.

They come from the training split and never show the question itself or one of its images. At random
they are drawn anew for each question out of a pool of training samples; by RICES they are those
whose images are most like the question's, the most similar one last. What is drawn follows from
(seed, order, key of the question) alone: not from batches, limits or the number of processes; and
fewer shots are the beginning of more, so that a curve over shots compares like with like.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vila_core.errors import UserError
from vila_core.eval.benchmark import Question
from vila_core.eval.files import ImageRef, read_image
from vila_core.eval.items import Case

POOL = 2_048
"""Training samples that demonstrations are drawn from, as in OpenFlamingo's evaluation."""

Embed = Callable[[Sequence[ImageRef]], NDArray[np.floating]]
"""Images in, one vector each out: (N, D)."""

_BLOCK = 256  # questions compared with the pool at once


class Demonstrator:
    """Chooses demonstrations for the questions of one benchmark."""

    def __init__(
        self,
        train: Sequence[Question],
        *,
        how: Literal["random", "rices"] = "random",
        size: int | None = POOL,
        embed: Embed | None = None,
        known: dict[ImageRef, bytes] | None = None,
    ) -> None:
        """Take the training split; each seed draws its own pool of `size` (None: all) from it.

        `embed` is needed for RICES, which OpenFlamingo lets choose from the whole split
        (`size=None`). `known` keeps digests of images, as in `Prompt.digest`. Raises UserError for
        a split without a sample that can be shown.
        """
        if how == "rices" and embed is None:
            raise ValueError("RICES needs `embed`")
        self._usable = [question for question in train if question.case.answer.strip()]
        if not self._usable:
            raise UserError(
                "the training split holds no sample with an answer, so there is nothing to show as "
                "a demonstration; ask with shots=[0]"
            )
        self._size = size
        self._known = {} if known is None else known
        self._pools: dict[int, list[Question]] = {}
        self._nearest = _Nearest(embed) if how == "rices" and embed is not None else None

    def pool(self, seed: int = 0) -> list[Question]:
        """Return the training samples that this seed's demonstrations come from."""
        if self._size is None or self._size >= len(self._usable):
            return self._usable
        if seed not in self._pools:
            chosen = _drawn(_random("pool", seed), len(self._usable))
            self._pools[seed] = [self._usable[next(chosen)] for _ in range(self._size)]
        return self._pools[seed]

    def demonstrations(
        self,
        questions: Sequence[Question],
        shots: int,
        *,
        seed: int = 0,
        order: int = 0,
        text_only: bool = False,
    ) -> list[tuple[Case, ...]]:
        """Return `shots` solved examples per question.

        Order 0 is as they were drawn; other orders are other arrangements of the same ones. With
        `text_only` their images are left out: the control that tells how much of a gain comes from
        what an answer looks like. Raises UserError where there are fewer than `shots`.
        """
        if not shots:
            return [()] * len(questions)
        return [
            tuple(
                without_images(demo.case) if text_only else demo.case
                for demo in arranged(chosen, order, seed=seed, key=question.key)
            )
            for question, chosen in zip(
                questions, self.chosen(questions, shots, seed=seed), strict=True
            )
        ]

    def chosen(
        self, questions: Sequence[Question], shots: int, *, seed: int = 0
    ) -> list[list[Question]]:
        """Return the training samples themselves, in order 0; by RICES the most similar last."""
        pool = self.pool(seed)
        if self._nearest is None:
            ranks: Iterator[Iterator[int]] = (
                _drawn(_random("demonstrations", seed, question.key), len(pool))
                for question in questions
            )
            return [
                self._first(question, rank, pool, shots)
                for question, rank in zip(questions, ranks, strict=True)
            ]
        return [
            self._first(question, iter(rank), pool, shots)[::-1]
            for question, rank in zip(questions, self._nearest.ranks(questions, pool), strict=True)
        ]

    def _first(
        self, question: Question, rank: Iterator[int], pool: Sequence[Question], shots: int
    ) -> list[Question]:
        """Take the first that may be shown to this question."""
        own = self._images(question)
        found: list[Question] = []
        for index in rank:
            demo = pool[index]
            if demo.key != question.key and not own & self._images(demo):
                found.append(demo)
                if len(found) == shots:
                    return found
        where = question.where or question.key
        raise UserError(
            f"{where}: {shots} demonstrations are asked for, but the training split has only "
            f"{len(found)} that don't show this question or its image; lower `shots`"
        )

    def _images(self, question: Question) -> set[bytes]:
        """Return the digests of a question's images: one picture may have several names."""
        digests = set()
        for image in images_of(question):
            if image not in self._known:
                self._known[image] = hashlib.sha256(read_image(image)).digest()
            digests.add(self._known[image])
        return digests


class _Nearest:
    """The pool by image similarity: cosine of mean unit vectors; each image is embedded once."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._vectors: dict[ImageRef, NDArray[np.float32]] = {}

    def ranks(self, questions: Sequence[Question], pool: Sequence[Question]) -> Iterator[list[int]]:
        """Yield the pool's indices per question, most similar first; ties by place in the pool."""
        for question in questions:
            if not images_of(question):
                raise UserError(
                    f"{question.where or question.key}: has no image, so that no similar one can "
                    "be found; choose demonstrations at random: demos.how=random"
                )
        seen = [index for index, demo in enumerate(pool) if images_of(demo)]
        pool_ND = self._matrix([pool[index] for index in seen])
        for start in range(0, len(questions), _BLOCK):
            block_BD = self._matrix(questions[start : start + _BLOCK])
            for similarity_N in block_BD @ pool_ND.T:
                yield [seen[index] for index in np.argsort(-similarity_N, kind="stable")]

    def _matrix(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        images = dict.fromkeys(image for question in questions for image in images_of(question))
        new = [image for image in images if image not in self._vectors]
        if new:
            vectors = np.asarray(self._embed(new), dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(new):
                raise ValueError(f"embed gave {vectors.shape} for {len(new)} images")
            self._vectors.update(zip(new, _unit(vectors), strict=True))
        rows = [
            np.mean([self._vectors[image] for image in images_of(question)], axis=0)
            for question in questions
        ]
        return _unit(np.stack(rows)) if rows else np.zeros((0, 1), dtype=np.float32)


def images_of(question: Question) -> list[ImageRef]:
    """Return the images of a question, in order."""
    return [part for part in question.case.parts if not isinstance(part, str)]


def without_images(case: Case) -> Case:
    """Return the case with its images left out and its text as it was."""
    return Case(tuple(part for part in case.parts if isinstance(part, str)), case.answer)


def orders_of(shots: int, wanted: int) -> int:
    """Return how many different orders there are of so many demonstrations, `wanted` at most."""
    return min(wanted, math.factorial(min(shots, 12)))


def arranged(demos: Sequence[Question], order: int, *, seed: int, key: str) -> list[Question]:
    """Return the demonstrations in one of their orders; 0 is the given one, all others differ.

    Numbers beyond the orders that there are begin again at 0.
    """
    count = len(demos)
    order %= orders_of(count, order + 1)
    rng = _random("orders", seed, key)
    identity = tuple(range(count))
    known, latest = {identity}, identity
    while len(known) <= order:
        latest = tuple(rng.sample(identity, count))
        known.add(latest)
    return [demos[index] for index in latest] if order else list(demos)


def _random(*words: object) -> random.Random:
    text = "\0".join(str(word) for word in words)
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()))


def _drawn(rng: random.Random, count: int) -> Iterator[int]:
    """Yield 0 … count - 1 in random order, shuffling only as far as asked."""
    moved: dict[int, int] = {}
    for place in range(count):
        other = rng.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.get(place, place)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)
