"""Put the samples of a window into packs of at most so many tokens and images, leaving none out.

Windows are planned one by one, so the plan needs no memory of what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vila_core.data.binpack import pack_window
from vila_core.data.mixture import Cursor, Draw, Mixture


@dataclass(frozen=True)
class Pack:
    """The samples of one pack, in draw order. `number` counts packs from the start of training."""

    number: int
    draws: tuple[Draw, ...]
    num_tokens: int
    num_images: int


@dataclass(frozen=True)
class PlanState:
    """Where in the plan: the cursor before the current window, and how far into it."""

    cursor: Cursor
    window: int = 0  # windows finished
    taken: int = 0  # packs taken from the current window
    packs: int = 0  # packs taken in all

    def to_json(self) -> dict[str, object]:
        """Return the state as plain integers."""
        return {
            "draws": list(self.cursor.draws),
            "tokens": list(self.cursor.tokens),
            "window": self.window,
            "taken": self.taken,
            "packs": self.packs,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> PlanState:
        """Return the state that `to_json` wrote."""
        cursor = Cursor(tuple(value["draws"]), tuple(value["tokens"]))  # type: ignore[arg-type]
        return cls(cursor, int(value["window"]), int(value["taken"]), int(value["packs"]))  # type: ignore[call-overload]


class Planner:
    """Turns a mixture into a row of packs, which ends only where the mixture does.

    `images[s]` are the image counts (N,) of source s. A sample that alone is over a budget must
    have been refused before; here it is a ValueError.
    """

    def __init__(
        self,
        mixture: Mixture,
        images: Sequence[np.ndarray],
        *,
        pack_tokens: int,
        pack_images: int,
        window: int,
        seed: int,
    ) -> None:
        self.mixture = mixture
        self._lengths = [source.lengths for source in mixture.sources]
        self._images = list(images)
        self._budget = (pack_tokens, pack_images)
        self._window, self._seed = window, seed

    def start(self) -> PlanState:
        """Return the state before the first pack."""
        return PlanState(self.mixture.start())

    def windows(self, state: PlanState) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield each window from `state` on: its number, and its draws' sources and samples (D,).

        Not to be run by another thread than `packs`, unless on a planner of its own.
        """
        cursor, window = state.cursor, state.window
        while True:
            sources_D, samples_D, cursor = self.mixture.draw_arrays(cursor, self._window)
            if not len(samples_D):
                return
            yield window, sources_D, samples_D
            window += 1

    def packs(self, state: PlanState) -> Iterator[tuple[Pack, PlanState]]:
        """Yield packs from `state` on, each with the state after it."""
        cursor, window, taken, number = state.cursor, state.window, state.taken, state.packs
        while True:
            sources_D, samples_D, after = self.mixture.draw_arrays(cursor, self._window)
            if not len(samples_D):
                return
            lengths = _look_up(self._lengths, sources_D, samples_D)
            images = _look_up(self._images, sources_D, samples_D)
            draws = list(map(Draw, sources_D.tolist(), samples_D.tolist()))
            bins = self._plan(lengths, images, window)
            for place in range(taken, len(bins)):
                items = bins[place]
                pack = Pack(
                    number,
                    tuple([draws[item] for item in items]),
                    sum([lengths[item] for item in items]),
                    sum([images[item] for item in items]),
                )
                number += 1
                last = place + 1 == len(bins)
                yield (
                    pack,
                    PlanState(after, window + 1, 0, number)
                    if last
                    else PlanState(cursor, window, place + 1, number),
                )
            cursor, window, taken = after, window + 1, 0

    def _plan(self, lengths: list[int], images: list[int], window: int) -> list[list[int]]:
        bins = pack_window(lengths, images, *self._budget)
        # Planning leaves the long samples in the first packs and the emptiest pack at the end.
        order = np.random.default_rng([self._seed, window]).permutation(len(bins))
        return [bins[place] for place in order.tolist()]


def _look_up(
    columns: Sequence[np.ndarray], sources_D: np.ndarray, samples_D: np.ndarray
) -> list[int]:
    """Return each draw's entry in its source's column."""
    found_D = np.empty(len(samples_D), dtype=np.int64)
    for number, column in enumerate(columns):
        of_it = np.flatnonzero(sources_D == number)
        found_D[of_it] = column[samples_D[of_it]]
    return found_D.tolist()


def deal(packs: Sequence[Pack], world: int) -> list[list[Pack]]:
    """Deal a step's packs to `world` ranks: as many to each, costs as even as a snake makes them.

    The number of packs must be a multiple of `world`. A rank gets its packs in their global order.
    """
    hands: list[list[Pack]] = [[] for _ in range(world)]
    by_cost = sorted(packs, key=lambda pack: (-pack.num_tokens, -pack.num_images, pack.number))
    for place, pack in enumerate(by_cost):
        lap, seat = divmod(place, world)
        hands[seat if lap % 2 == 0 else world - 1 - seat].append(pack)
    return [sorted(hand, key=lambda pack: pack.number) for hand in hands]
