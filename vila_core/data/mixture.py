"""Which sample comes next: a pure function of the seed, the weights and the samples' lengths.

Every draw goes to the source that has had the fewest tokens for its share: the least of tokens
drawn / share. Realised shares so stay within a sample of the asked ones, all along. When a source
is used up (its repeat limit), the others go on in their proportions. Within a source, samples come
in a fresh permutation per epoch, of all of them or of a few shards at a time. Sources don't know of
each other: adding one reorders no other.
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
    """A named list of samples by their lengths in tokens (N,).

    `counted` (N,) is what the mixture's shares count, the lengths if not given; it may be zero for
    some samples, not for all. `max_epochs` is how often the source may be drawn through. With
    `shards` (N,), the number of each sample's shard, and `shuffle_shards`, samples are shuffled
    among so many shards at a time, drawn at random; else among all.
    """

    name: str
    lengths: np.ndarray
    counted: np.ndarray | None = None
    max_epochs: float | None = None
    shards: np.ndarray | None = None
    shuffle_shards: int | None = None

    @property
    def counts(self) -> np.ndarray:
        """What the shares count, per sample (N,)."""
        return self.lengths if self.counted is None else self.counted

    @property
    def max_draws(self) -> int | None:
        """How many draws `max_epochs` allows, at least one; None without a limit."""
        if self.max_epochs is None:
            return None
        return max(1, int(self.max_epochs * len(self.lengths) + 1e-6))


@dataclass(frozen=True)
class Cursor:
    """How far each source has been drawn: its whole state. `tokens` are those that shares count."""

    draws: tuple[int, ...]
    tokens: tuple[int, ...]


class Mixture:
    """Draws from several sources so that each gets its share of the tokens."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], seed: int) -> None:
        if len(sources) != len(weights) or not sources:
            raise ValueError(f"{len(sources)} sources with {len(weights)} weights")
        for source in sources:
            if not source.counts.sum() > 0:
                raise ValueError(f"source '{source.name}' has no token to count")
        total = float(sum(weights))
        self.sources = tuple(sources)
        self.shares = tuple(weight / total for weight in weights)
        self._seeds = [[seed, _number(source.name)] for source in sources]
        self._means = [float(source.counts.mean()) for source in sources]
        self._orders: list[dict[int, np.ndarray]] = [{} for _ in sources]

    def start(self) -> Cursor:
        """Return the cursor before the first draw."""
        zeros = (0,) * len(self.sources)
        return Cursor(zeros, zeros)

    def draw(self, cursor: Cursor, count: int) -> tuple[list[Draw], Cursor]:
        """Return the next `count` draws and the cursor after them.

        There are fewer only when every source has come to its limit.
        """
        sources_D, samples_D, after = self.draw_arrays(cursor, count)
        return list(map(Draw, sources_D.tolist(), samples_D.tolist())), after

    def draw_arrays(self, cursor: Cursor, count: int) -> tuple[np.ndarray, np.ndarray, Cursor]:
        """Return what `draw` does as numbers of sources and of samples (D,)."""
        caps = [self._left(number, drawn, count) for number, drawn in enumerate(cursor.draws)]
        ahead = [tokens / share for tokens, share in zip(cursor.tokens, self.shares, strict=True)]
        open_ = [number for number, cap in enumerate(caps) if cap]
        if not open_:
            empty = np.zeros(0, dtype=np.int64)
            return empty, empty, cursor
        # Every draw has a time: tokens drawn from its source so far / share. Draws go by time, so
        # look at each source up to a time by which `count` draws are expected, later if too few.
        rate = sum(self.shares[number] / self._means[number] for number in open_)
        begin = min(ahead[number] for number in open_)
        span = count / rate
        while True:
            rows, horizon = [], np.inf
            for number in open_:
                expected = (begin + span - ahead[number]) * self.shares[number]
                expected = max(0, int(1.05 * expected / self._means[number])) + 4
                rows.append(self._upcoming(number, cursor, min(expected, caps[number])))
                if expected < caps[number]:
                    horizon = min(horizon, float(rows[-1][1][-1]))
            times = np.concatenate([times_D[:-1] for _, times_D in rows])
            if np.count_nonzero(times < horizon) >= min(count, sum(caps)):
                break
            span *= 2
        # Stable: of equal times the earlier source's draws come first.
        chosen_D = np.argsort(times, kind="stable")[:count]
        sizes = [len(samples_D) for samples_D, _ in rows]
        sources_D = np.repeat(np.array(open_), sizes)[chosen_D]
        samples_D = np.concatenate([samples_D for samples_D, _ in rows])[chosen_D]
        draws, tokens = list(cursor.draws), list(cursor.tokens)
        for number, (row_D, _) in zip(open_, rows, strict=True):
            taken = int(np.count_nonzero(sources_D == number))
            draws[number] += taken
            tokens[number] += int(self.sources[number].counts[row_D[:taken]].sum(dtype=np.int64))
        return sources_D, samples_D, Cursor(tuple(draws), tuple(tokens))

    def _left(self, number: int, drawn: int, count: int) -> int:
        limit = self.sources[number].max_draws
        return count if limit is None else min(count, max(0, limit - drawn))

    def _upcoming(self, number: int, cursor: Cursor, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the source's next samples (count,), and the times of them and of the one after."""
        size, start, pieces = len(self.sources[number].lengths), cursor.draws[number], []
        while count:
            epoch, place = divmod(start, size)
            pieces.append(self._order(number, epoch)[place : place + count])
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
        samples_D = np.concatenate(pieces)
        tokens_D = np.empty(len(samples_D) + 1, dtype=np.int64)
        tokens_D[0] = cursor.tokens[number]
        np.cumsum(self.sources[number].counts[samples_D], dtype=np.int64, out=tokens_D[1:])
        tokens_D[1:] += cursor.tokens[number]
        return samples_D, tokens_D / self.shares[number]

    def _order(self, number: int, epoch: int) -> np.ndarray:
        orders = self._orders[number]
        if epoch not in orders:
            for old in [known for known in orders if known < epoch - 1 or known > epoch]:
                del orders[old]  # a window may reach from one epoch into the next
            orders[epoch] = self.order(number, epoch)
        return orders[epoch]

    def order(self, source: int, epoch: int) -> np.ndarray:
        """Return the permutation of a source's samples in an epoch."""
        rng = np.random.default_rng([*self._seeds[source], epoch])
        order_N = rng.permutation(len(self.sources[source].lengths))
        shards, together = self.sources[source].shards, self.sources[source].shuffle_shards
        if shards is None or together is None:
            return order_N
        place_S = rng.permutation(int(shards.max()) + 1)
        group_N = place_S[shards[order_N]] // together
        return order_N[np.argsort(group_N, kind="stable")]


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
