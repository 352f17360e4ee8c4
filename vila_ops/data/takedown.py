"""What has to go when samples have to go: shards, trainings, models, and where to begin again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.errors import UserError
from vila_core.store import Store
from vila_ops.data.trace import Place, Use, places, uses

_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*/.+/\d+")


@dataclass(frozen=True)
class Takedown:
    """What samples touch."""

    keys: tuple[str, ...]
    places: tuple[tuple[str, Place], ...]  # key and where it lies
    unknown: tuple[str, ...]  # keys that no prepared result holds
    uses: tuple[Use, ...]

    def shards(self) -> list[tuple[str, str, int]]:
        """Return data digest, shard and number of the samples in it, sorted."""
        counts: dict[tuple[str, str], int] = {}
        for _, place in self.places:
            counts[place.data, place.shard] = counts.get((place.data, place.shard), 0) + 1
        return sorted((*where, count) for where, count in counts.items())

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
                    "restart": use.restart,
                }
                for use in self.uses
            ],
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
    return Takedown(tuple(keys), tuple(found), tuple(unknown), tuple(uses(store, keys)))


def read_keys(given: Sequence[str]) -> list[str]:
    """Return keys as given, and those in files named by `@FILE`, each once, in their order.

    Raises UserError for a file that can't be read and for text that is no sample key.
    """
    keys: dict[str, None] = {}
    for one in given:
        if not one.startswith("@"):
            keys[_checked(one, "")] = None
            continue
        path = Path(one[1:])
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: can't be read: {error}") from None
        for number, line in enumerate(lines, start=1):
            if line.strip() and not line.startswith("#"):
                keys[_checked(line.strip(), f"{path}:{number}: ")] = None
    if not keys:
        raise UserError(f"{' '.join(given)}: holds no sample key.")
    return list(keys)


def _checked(key: str, where: str) -> str:
    if not _KEY.fullmatch(key):
        raise UserError(
            f"{where}{key!r} is not a sample key; one looks like mmc4/00017/000042 "
            "(vila data inspect shows them)."
        )
    return key
