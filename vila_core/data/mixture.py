"""Which sample comes next: a pure function of the seed, the weights and the samples' lengths.

Every draw goes to the source that is furthest behind its share *in tokens* (the signed deficit;
with the absolute one a source that is ahead would keep being chosen). Within a source, samples come
in a fresh permutation per epoch. Sources don't know of each other: adding one reorders no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vila_core.errors import UserError


class Draw(NamedTuple):
    """One drawn sample: number of its source in the mixture, number of the sample in the source."""

    source: int
    sample: int


@dataclass(frozen=True)
class Source:
    """A named list of samples by their lengths in tokens (N,)."""

    name: str
    lengths: np.ndarray


@dataclass(frozen=True)
class Cursor:
    """How far each source has been drawn: its whole state."""

    draws: tuple[int, ...]
    tokens: tuple[int, ...]


class Mixture:
    """Draws from several sources so that each gets its share of the tokens."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], seed: int) -> None:
        if len(sources) != len(weights) or not sources:
            raise ValueError(f"{len(sources)} sources with {len(weights)} weights")
        total = float(sum(weights))
        self.sources = tuple(sources)
        self.shares = tuple(weight / total for weight in weights)
        self._lengths = [source.lengths.tolist() for source in sources]
        self._seeds = [[seed, _number(source.name)] for source in sources]
        self._orders: list[tuple[int, list[int]]] = [(-1, [])] * len(sources)

    def start(self) -> Cursor:
        """Return the cursor before the first draw."""
        zeros = (0,) * len(self.sources)
        return Cursor(zeros, zeros)

    def draw(self, cursor: Cursor, count: int) -> tuple[list[Draw], Cursor]:
        """Return the next `count` draws and the cursor after them."""
        draws, tokens = list(cursor.draws), list(cursor.tokens)
        result = []
        numbers = range(1, len(draws))
        shares, total = self.shares, sum(tokens)
        for _ in range(count):
            source, most = 0, shares[0] * total - tokens[0]
            for number in numbers:
                behind = shares[number] * total - tokens[number]
                if behind > most:
                    source, most = number, behind
            lengths = self._lengths[source]
            epoch, place = divmod(draws[source], len(lengths))
            if self._orders[source][0] != epoch:
                self._orders[source] = (epoch, self.order(source, epoch).tolist())
            sample = self._orders[source][1][place]
            draws[source] += 1
            tokens[source] += lengths[sample]
            total += lengths[sample]
            result.append(Draw(source, sample))
        return result, Cursor(tuple(draws), tuple(tokens))

    def order(self, source: int, epoch: int) -> np.ndarray:
        """Return the permutation of a source's samples in an epoch."""
        rng = np.random.default_rng([*self._seeds[source], epoch])
        return rng.permutation(len(self._lengths[source]))


def check_weights(weights: Mapping[str, float], known: Sequence[str]) -> dict[str, float]:
    """Return the weights above zero. Raises UserError for an unknown corpus or a bad weight."""
    for name, weight in weights.items():
        if name not in known:
            raise UserError(f"mixture: no corpus '{name}' in the data; it has {', '.join(known)}.")
        if not (weight >= 0 and weight != float("inf")):
            raise UserError(f"mixture.{name}: weight {weight} is not a number of at least 0.")
    positive = {name: float(weight) for name, weight in weights.items() if weight > 0}
    if not positive:
        raise UserError(
            f"mixture: no corpus has a weight above 0; the data has {', '.join(known)}."
        )
    return positive


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
