"""What a version was measured on: rows for a card, from the summaries of its evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.registry import Version
from vila_core.errors import StoreError
from vila_core.eval.records import BLIND
from vila_core.store import Store, read_file, ref_of

_Z95 = 1.959963984540054
_SHARE = "accuracy"


@dataclass(frozen=True)
class Measured:
    """One metric of one task at one number of demonstrations.

    `scale` is what makes a percentage of the value, 1 where it is none. `interval` is the 95%
    interval, `blind` the same metric without images; None where not known.
    """

    task: str
    metric: str
    shots: int
    value: float
    scale: float
    interval: tuple[float, float] | None
    blind: float | None
    chance: float | None
    questions: int | None

    @property
    def key(self) -> str:
        """The metric as gates name it."""
        return f"{self.task}/{self.metric}@{self.shots}"


@dataclass(frozen=True)
class Results:
    """The measurements of a version, what is to be said of them, and where they are from."""

    rows: tuple[Measured, ...]
    notes: tuple[str, ...]
    sha256: str

    def curves(self) -> dict[tuple[str, str], list[Measured]]:
        """Return by (task, metric) the rows of what was asked at several numbers of shots."""
        found: dict[tuple[str, str], list[Measured]] = {}
        for row in self.rows:
            found.setdefault((row.task, row.metric), []).append(row)
        return {name: rows for name, rows in found.items() if len(rows) > 1}


def measured(store: Store, version: Version) -> Results:
    """Return what a version was measured on; from its own metrics where the results are gone."""
    sha256 = results_of(version)
    summary: Mapping[str, Any] = {}
    notes: list[str] = []
    try:
        summary = json.loads(read_file(store, ref_of(store, sha256), "summary.json"))
        notes += _notes(summary)
    except (StoreError, ValueError):
        notes.append("The records of the evaluation are no longer in the store.")
    metrics = _numbers(summary.get("metrics") or version.metrics)
    return Results(tuple(_rows(metrics, summary)), tuple(notes), sha256)


def results_of(version: Version) -> str:
    """Return the sha256 of the artifact with a version's evaluation records, "" if not recorded."""
    inputs = (version.lineage.get("register") or {}).get("inputs") or {}  # versions of before
    return version.results or str(inputs.get("results") or "")


def _rows(metrics: Mapping[str, float], summary: Mapping[str, Any]) -> Iterator[Measured]:
    counts = summary.get("counts") or {}
    known = summary.get("intervals") or {}
    scale = _scale(str(summary.get("headline_unit") or ""))
    for key in sorted(metrics, key=_order):
        task, metric, shots = split(key)
        if metric is None or "." in task or metric == "chance" or metric.startswith(f"{BLIND}_"):
            continue
        count = counts.get(key) or (summary.get("questions") or {}).get("asked")
        value = metrics[key]
        yield Measured(
            task=task,
            metric=metric,
            shots=shots,
            value=value,
            scale=scale or (100.0 if 0 <= value <= 1 else 1.0),
            interval=_interval(known.get(key)) or _wilson(metric, value, counts.get(key)),
            blind=metrics.get(f"{task}/{BLIND}_{metric}@{shots}"),
            chance=metrics.get(f"{task}/chance@{shots}") if metric == _SHARE else None,
            questions=count,
        )


def split(key: str) -> tuple[str, str | None, int]:
    """Return task, metric and shots of `task/metric@shots`; no metric for another key."""
    task, slash, rest = key.partition("/")
    metric, at, shots = rest.rpartition("@")
    if not slash or not at or not shots.isdigit():
        return key, None, 0
    return task, metric, int(shots)


def _order(key: str) -> tuple[str, str, int]:
    task, metric, shots = split(key)
    return task, metric or "", shots


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is a finite number, as itself or as the `value` of a mapping."""
    found = {}
    for key, item in values.items():
        value = item.get("value") if isinstance(item, Mapping) else item
        if isinstance(value, int | float) and math.isfinite(value):
            found[str(key)] = float(value)
    return found


def _scale(unit: str) -> float | None:
    if not unit:
        return None
    return 100.0 if unit.startswith("%") or "x 100" in unit else 1.0


def _interval(value: Mapping[str, float] | None) -> tuple[float, float] | None:
    if not value:
        return None
    ends = (value.get("low"), value.get("high"))
    if any(not isinstance(end, int | float) or not math.isfinite(end) for end in ends):
        return None
    return float(value["low"]), float(value["high"])


def _wilson(metric: str, share: float, count: Any) -> tuple[float, float] | None:
    """Return Wilson's 95% interval of a share of `count` questions.

    Unlike the share plus or minus two standard errors it has a width at 0 and at 1 as well.
    """
    if metric != _SHARE or not isinstance(count, int) or count <= 0 or not 0 <= share <= 1:
        return None
    z2 = _Z95**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    asked = summary.get("questions") or {}
    if asked and asked.get("asked", 0) < asked.get("in_split", 0):
        yield (
            f"Only {asked['asked']:,} of {asked['in_split']:,} questions were asked: the values do "
            "not compare with published ones."
        )
    health = summary.get("health") or summary
    said: Sequence[tuple[str, str]] = (
        ("unanswered", "are empty"),
        ("unfinished", "were cut at the longest length"),
        ("control_characters", "hold control characters"),
    )
    for name, what in said:
        if number := health.get(name):
            yield f"{number:,} answers {what}."
    for task, why in (summary.get("skipped") or {}).items():
        yield f"{task} was not measured: {why}."
