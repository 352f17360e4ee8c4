"""The answers to a benchmark as arrays, small enough that many evaluations can be held at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, int]
"""Benchmark (or task of an evaluation set) and number of shots."""

MOST_LEVELS = 256


@dataclass(frozen=True, eq=False)
class Questions:
    """What was asked, in the order of first sight; evaluations of the same questions share it.

    `units` numbers what the questions belong to, from 0 in the order of first sight.
    """

    text: bytes
    ends: NDArray[np.unsignedinteger]
    units: NDArray[np.unsignedinteger]

    @classmethod
    def of(cls, keys: Sequence[str], units: Sequence[str]) -> Questions:
        """Return the questions of those keys and the units that they belong to."""
        text = "".join(keys)
        sizes = (
            map(len, keys)
            if text.isascii()
            else (len(key.encode("utf-8", "surrogatepass")) for key in keys)
        )
        ends = np.cumsum(list(sizes), dtype=np.uint64)
        numbers: dict[str, int] = {}
        units_N = [numbers.setdefault(unit, len(numbers)) for unit in units]
        return cls(
            text.encode("utf-8", "surrogatepass"),
            narrowed(ends),
            narrowed(np.array(units_N, dtype=np.uint64)),
        )

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.ends)

    def key(self, place: int) -> str:
        """Return one key."""
        begin = int(self.ends[place - 1]) if place else 0
        return self.text[begin : int(self.ends[place])].decode("utf-8", "surrogatepass")

    def keys(self) -> list[str]:
        """Return all keys; they are made anew."""
        ends = self.ends.tolist()
        return [
            self.text[begin:end].decode("utf-8", "surrogatepass")
            for begin, end in zip([0, *ends], ends, strict=False)
        ]

    def index(self) -> dict[str, int]:
        """Return the place of each key; it is made anew and ten times as large as the questions."""
        return {key: place for place, key in enumerate(self.keys())}

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return len(self.text) + self.ends.nbytes + self.units.nbytes + 500


@dataclass(frozen=True, eq=False)
class Scores:
    """One number per question. Where few different ones come up, each takes a byte."""

    levels: NDArray[np.float64]
    codes: NDArray[np.uint8] | None

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Scores:
        """Pack numbers; `values` gives the same ones back."""
        levels, codes = np.unique(values, return_inverse=True)
        if len(levels) > min(MOST_LEVELS, len(values) / 2):
            return cls(values, None)
        return cls(levels, codes.astype(np.uint8))

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers."""
        return self.levels if self.codes is None else self.levels[self.codes]

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return self.levels.nbytes + (0 if self.codes is None else self.codes.nbytes) + 300


@dataclass(frozen=True, eq=False)
class Answers:
    """The seen answers to one benchmark at one number of shots; blind and other controls aside.

    Everything is by question, in the order of `asked`: `means` over draws of demonstrations (NaN
    where no score is known), `prompts` that tell what was asked from other words or images,
    `places` where the line of the first draw begins in the records, and `lines`, what `hash` gives
    for that line: the same in this process alone. `rounds` are the scores of each draw, by (seed,
    order); empty where draws are not of the same questions. `scored` is False where a score is not
    known. `bytes` is what they take in memory, without what is shared and was there already.
    """

    benchmark: str
    shots: int
    asked: Questions
    means: Scores
    prompts: NDArray[np.uint64]
    places: NDArray[np.unsignedinteger]
    lines: NDArray[np.int64]
    versions: frozenset[str]
    scored: bool
    rounds: Mapping[tuple[int, int], Scores]
    bytes: int

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.asked)

    @property
    def name(self) -> str:
        """How it is written: `benchmark@shots`."""
        return f"{self.benchmark}@{self.shots}"

    @property
    def scores(self) -> NDArray[np.float64]:
        """Means over draws of demonstrations."""
        return self.means.values


def narrowed(values: NDArray[np.uint64]) -> NDArray[np.unsignedinteger]:
    """Return whole numbers in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def is_binary(*scores: NDArray[np.float64]) -> bool:
    """Return whether all scores are 0 or 1."""
    return all(bool(np.isin(each, (0, 1)).all()) for each in scores)


def shared_places(ours: Answers, theirs: Answers) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where in each of both the questions stand that both were asked, in our order."""
    if ours.asked is theirs.asked:
        every = np.arange(len(ours))
        return every, every
    index = theirs.asked.index()
    pairs = [(at, index[key]) for at, key in enumerate(ours.asked.keys()) if key in index]
    both = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return both[:, 0], both[:, 1]
