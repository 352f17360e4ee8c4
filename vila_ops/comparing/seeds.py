"""Runs that differ in nothing but their seeds, told from their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.registry.noise import seeds_of, without_seeds
from vila_core.jsonio import digest
from vila_ops.comparing.chosen import Chosen


@dataclass(frozen=True)
class SeedGroup:
    """Runs of the same code, data and settings; `letters` names them, `seeds` says what differs."""

    members: tuple[int, ...]
    letters: str
    seeds: tuple[str, ...]

    @property
    def repeated(self) -> bool:
        """Whether there are two or more."""
        return len(self.members) > 1


def seed_groups(runs: Sequence[Chosen]) -> list[SeedGroup]:
    """Return the runs in groups, in the order of their first members.

    Runs of the same seeds are no repetitions of one another: of them each is a group of its own.
    """
    found: dict[str, list[int]] = {}
    taken: dict[str, set[str]] = {}
    for place, one in enumerate(runs):
        key = _digest([without_seeds(one.view.config), one.view.code_digest, one.task])
        seed = _digest(seeds_of(one.view.config))
        while seed in taken.get(key, ()):
            key += "'"
        taken.setdefault(key, set()).add(seed)
        found.setdefault(key, []).append(place)
    return [_group(runs, members) for members in found.values()]


def _group(runs: Sequence[Chosen], members: Sequence[int]) -> SeedGroup:
    seeds = [seeds_of(runs[place].view.config) for place in members]
    different = [
        key
        for key in dict.fromkeys(key for each in seeds for key in each)
        if any(each.get(key) != seeds[0].get(key) for each in seeds)
    ]
    return SeedGroup(
        tuple(members), ", ".join(runs[place].letter for place in members), tuple(different)
    )


def _digest(value: Any) -> str:
    try:
        return digest(value)
    except ValueError:  # NaN, which JSON has no word for
        return repr(value)
