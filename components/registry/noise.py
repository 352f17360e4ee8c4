"""The ledger of seed noise: how far runs lie apart that differ in nothing but their seeds.

    noise/<size>/<group>/<digest>.json    create-only; one run's metrics

A group are runs of the same settings but seeds. The spread of a metric at a size is pooled over its
groups, each around its own mean. Entries are named by their content: writing one again changes
nothing, and no lock is needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vila_core.errors import AlreadyExists, Damaged, UserError
from vila_core.eval.student import t_quantile
from vila_core.jsonio import digest, dumps
from vila_core.store import Store

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SEED = re.compile(r"(^|_)seeds?$")


@dataclass(frozen=True)
class Measured:
    """One run's metrics: at which `size`, in which `group`, with which `seed`, from where."""

    size: str
    group: str
    seed: str
    source: str  # the run's id
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """The spread of a metric across seeds: a standard deviation with its degrees of freedom."""

    size: str
    metric: str
    deviation: float
    freedom: int
    runs: int
    groups: int

    def difference(self, level: float = 0.95) -> float:
        """Return how far two runs lie apart by their seeds alone, two-sided at `level`."""
        return t_quantile((1 + level) / 2, self.freedom) * self.deviation * math.sqrt(2)

    def drop(self, level: float = 0.95) -> float:
        """Return how far one run lies below another by their seeds alone, one-sided."""
        return t_quantile(level, self.freedom) * self.deviation * math.sqrt(2)

    def as_json(self) -> dict[str, Any]:
        """Return the spread as a JSON-able mapping."""
        return asdict(self) | {"difference": self.difference()}


class NoiseLedger:
    """The ledger of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, list[Measured]] = {}

    def add(self, measured: Measured) -> bool:
        """Keep a run's metrics; False if they were there already.

        Raises UserError for a size or group that can't be a name, and ValueError for no metrics or
        numbers that are none.
        """
        for name, what in ((measured.size, "a size"), (measured.group, "a group")):
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"'{name}' can't name {what} of runs: use lower-case letters, digits, '.', "
                    "'_' and '-'."
                )
        if not measured.metrics:
            raise ValueError(f"{measured.source} has no metrics")
        # The same seed of a group is the same run, whoever ran it again.
        name = digest([measured.seed, measured.metrics])[:24]
        place = f"noise/{measured.size}/{measured.group}/{name}.json"
        self._read.pop(measured.size, None)
        try:
            text = dumps(asdict(measured), indent=1) + "\n"
            self._store.write(place, text.encode(), create_only=True)
        except AlreadyExists:
            return False
        return True

    def sizes(self) -> list[str]:
        """Return the sizes that anything is known of."""
        return self._store.children("noise")

    def entries(self, size: str) -> list[Measured]:
        """Return what was measured at a size. Raises Damaged for an entry that can't be read."""
        if size not in self._read:
            self._read[size] = [self._entry(key) for key in self._store.list(f"noise/{size}/")]
        return self._read[size]

    def spread(self, size: str, metric: str) -> Spread | None:
        """Return the spread of a metric; None while no group has two runs of different seeds."""
        groups: dict[str, dict[str, float]] = {}
        for entry in self.entries(size):
            if metric in entry.metrics:
                groups.setdefault(entry.group, {})[entry.seed] = entry.metrics[metric]
        repeated = [list(group.values()) for group in groups.values() if len(group) > 1]
        freedom = sum(len(values) - 1 for values in repeated)
        if not freedom:
            return None
        squares = math.fsum(_squares(values) for values in repeated)
        return Spread(
            size=size,
            metric=metric,
            deviation=math.sqrt(squares / freedom),
            freedom=freedom,
            runs=sum(map(len, repeated)),
            groups=len(repeated),
        )

    def spreads(self, size: str) -> dict[str, Spread]:
        """Return all spreads of a size, by metric."""
        metrics = sorted({key for entry in self.entries(size) for key in entry.metrics})
        found = {metric: self.spread(size, metric) for metric in metrics}
        return {metric: spread for metric, spread in found.items() if spread is not None}

    def _entry(self, key: str) -> Measured:
        try:
            return Measured(**json.loads(self._store.read(key)))
        except (ValueError, TypeError):
            raise Damaged(f"{key}: is not an entry of the noise ledger; remove it.") from None


def without_seeds(config: Any) -> Any:
    """Return a config without its seeds (keys `seed`, `seeds`, `…_seed`), at any depth."""
    if isinstance(config, Mapping):
        return {key: without_seeds(value) for key, value in config.items() if not _SEED.search(key)}
    if isinstance(config, list | tuple):
        return [without_seeds(value) for value in config]
    return config


def seeds_of(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the seeds of a config by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if _SEED.search(key):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            found |= seeds_of(value, f"{prefix}{key}.")
    return found


def _squares(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)
