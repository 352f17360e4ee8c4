"""What has to go when samples have to go: shards, trainings, models, and where to begin again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.data import sample
from vila_core.errors import UserError
from vila_core.store import Store
from vila_ops.data.trace import Place, Use, places, uses


@dataclass(frozen=True)
class Takedown:
    """What samples touch."""

    keys: tuple[str, ...]
    places: tuple[tuple[str, Place], ...]  # key and where it lies
    unknown: tuple[str, ...]  # keys that no prepared result holds
    uses: tuple[Use, ...]
    untold: tuple[str, ...]  # trainings of which none can tell whether they saw one

    def shards(self) -> list[tuple[str, str, int]]:
        """Return data digest, shard and number of the samples in it, sorted."""
        counts: dict[tuple[str, str], int] = {}
        for _, place in self.places:
            counts[place.data, place.shard] = counts.get((place.data, place.shard), 0) + 1
        return sorted((*where, count) for where, count in counts.items())

    def restarts(self) -> list[Use]:
        """Return the first training of each chain that saw a sample: the rest follows from it."""
        keys = {use.key for use in self.uses}
        return [use for use in self.uses if not use.after & keys]

    def models(self) -> list[str]:
        """Return the registry versions that were made from any of the samples."""
        return sorted({model for use in self.uses for model in use.models})

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "keys": list(self.keys),
            "unknown": list(self.unknown),
            "shards": [
                {"data": data, "shard": shard, "samples": count}
                for data, shard, count in self.shards()
            ],
            "uses": [
                {
                    "run": use.run_id,
                    "task": use.task,
                    "first_step": use.steps[0],
                    "steps": len(use.steps),
                    "steps_done": use.steps_done,
                }
                for use in self.uses
            ],
            "restarts": [
                {"run": use.run_id, "task": use.task, "checkpoint": use.restart}
                for use in self.restarts()
            ],
            "untold": list(self.untold),
            "models": self.models(),
        }


def takedown(store: Store, keys: Sequence[str]) -> Takedown:
    """Return what the samples touch. Raises UserError for text that is no sample key."""
    found = []
    unknown = []
    for key in keys:
        here = places(store, key)
        found += [(key, place) for place in here]
        if not here:
            unknown.append(key)
    seen = uses(store, keys)
    return Takedown(tuple(keys), tuple(found), tuple(unknown), seen.uses, seen.untold)


def read_keys(given: Sequence[str]) -> list[str]:
    """Return keys as given, and those in files named by `@FILE`, each once, sorted.

    Raises UserError for a file that can't be read and for text that is no sample key.
    """
    keys: set[str] = set()
    for one in given:
        if one.startswith("@"):
            keys |= sample.read_keys(Path(one[1:]))
        elif sample.is_key(one):
            keys.add(one)
        else:
            raise UserError(
                f"{one!r} is not a sample key; one looks like mmc4/00017/000042 "
                "(vila data inspect shows them)."
            )
    if not keys:
        raise UserError(f"{' '.join(given)}: holds no sample key.")
    return sorted(keys)
