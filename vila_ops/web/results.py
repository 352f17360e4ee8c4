"""What evaluations of a run found: scores beside blind baseline and chance, with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any

from vila_core.errors import VilaError
from vila_core.eval.records import BLIND
from vila_core.store import Store, read_file, ref_of
from vila_ops.kept import Kept
from vila_ops.run_index import finite
from vila_ops.view import RunView, TaskView

Z = 1.959964
"""Of the standard normal distribution, for 95%."""
MOST_ROWS = 400

_SHARES = ("accuracy",)
_summaries: Kept[Mapping[str, Any]] = Kept(4 * 2**20)


@dataclass(frozen=True)
class Score:
    """A metric of a benchmark at one number of shots; `scale` is what it is shown times."""

    benchmark: str
    kind: str
    """Type of question; empty for all of them."""
    metric: str
    shots: int
    value: float
    low: float | None
    high: float | None
    blind: float | None
    chance: float | None
    questions: int | None
    scale: float = 100.0
    unit: str = "%"

    @property
    def above_blind(self) -> bool | None:
        """Whether the interval lies above the blind baseline; None where either is unknown."""
        return None if self.low is None or self.blind is None else self.low > self.blind


@dataclass(frozen=True)
class Results:
    """What one evaluation found."""

    task: str
    scores: tuple[Score, ...]
    parts: tuple[Score, ...]
    """By type of question."""
    curves: Mapping[str, tuple[Score, ...]]
    """By benchmark with several numbers of shots: its scores, fewest shots first."""
    notes: tuple[str, ...] = field(default=())


def evaluations(view: RunView) -> list[TaskView]:
    """Return the tasks with scores, the run's own evaluation first, then in the graph's order."""
    found = [task for task in view.tasks if any("@" in name for name in task.metrics)]
    return sorted(found, key=lambda task: task.name != "evaluate")


def results(store: Store, task: TaskView) -> Results:
    """Return what an evaluation found; without its summary, there are no intervals."""
    notes: list[str] = []
    summary: Mapping[str, Any] = {}
    try:
        summary = _summary(store, task)
    except VilaError as error:
        notes.append(f"Intervals can't be shown: {error}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        notes.append("Intervals can't be shown: the results' summary is not ours.")
    scores, parts = [], []
    for name, value in sorted(task.metrics.items()):
        score = _score(name, value, task.metrics, summary)
        if score is not None and len(scores) + len(parts) < MOST_ROWS:
            (parts if score.kind else scores).append(score)
    scores.sort(key=_place)
    parts.sort(key=_place)
    health = summary.get("health") if isinstance(summary.get("health"), Mapping) else summary
    for what, words in _WORDS.items():
        count = finite(health.get(what)) if isinstance(health, Mapping) else None
        if count:
            notes.append(f"{count:,.0f} answers {words}.")
    return Results(task.name, tuple(scores), tuple(parts), _curves(scores), tuple(notes))


_WORDS = {
    "unanswered": "are empty",
    "unfinished": "were cut at the longest length",
    "control_characters": "hold control characters",
}


def _place(score: Score) -> tuple[bool, str, str, str, int]:
    return score.blind is None, score.benchmark, score.kind, score.metric, score.shots


def _summary(store: Store, task: TaskView) -> Mapping[str, Any]:
    made = next((one for one in task.artifacts if one["name"] == "results"), None)
    if made is None:
        return {}
    ref = ref_of(store, made["sha256"])

    def read() -> tuple[Mapping[str, Any], int]:
        data = read_file(store, ref, "summary.json")
        value = json.loads(data)
        if not isinstance(value, Mapping):
            raise ValueError("no summary")
        return value, 4 * len(data)

    return _summaries.get((store.uri, ref.sha256), read)


def _score(
    name: str, value: float, metrics: Mapping[str, float], summary: Mapping[str, Any]
) -> Score | None:
    task, slash, rest = name.partition("/")
    metric, _, shots = rest.partition("@")
    number = finite(value)
    if not slash or not shots.isdigit() or number is None:
        return None
    if metric == "chance" or metric.startswith((f"{BLIND}_", "text_only_")):
        return None
    benchmark, _, kind = task.partition(".")
    counted = finite(_at(summary, "counts", name))
    interval = _at(summary, "intervals", name)
    if isinstance(interval, Mapping):
        low, high = finite(interval.get("low")), finite(interval.get("high"))
    elif metric in _SHARES and counted and 0 <= number <= 1:
        low, high = wilson(number, counted)
    else:
        low = high = None
    count = counted or finite(_at(summary, "questions", "asked"))
    scale, unit = _unit(metric, number, summary)
    return Score(
        benchmark=benchmark,
        kind=kind,
        metric=metric,
        shots=int(shots[:6]),
        value=number,
        low=low,
        high=high,
        blind=finite(metrics.get(f"{task}/{BLIND}_{metric}@{shots}")),
        chance=finite(metrics.get(f"{task}/chance@{shots}")) if metric in _SHARES else None,
        questions=int(count) if count else None,
        scale=scale,
        unit=unit,
    )


def _unit(metric: str, value: float, summary: Mapping[str, Any]) -> tuple[float, str]:
    """Return what a value is shown times, and in which unit."""
    if summary.get("headline") == metric:
        said = str(summary.get("headline_unit") or "")
        return 100.0 if said.startswith("%") or "x 100" in said else 1.0, said.partition(",")[0]
    return (1.0, "") if abs(value) > 1 else (100.0, "%")


def _at(value: Mapping[str, Any], *keys: str) -> Any:
    found: Any = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of `count` questions."""
    if not (isfinite(share) and count > 0):
        return 0.0, 1.0
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count)
    half *= sqrt(max(share * (1 - share), 0.0) / count + Z * Z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _curves(scores: Iterable[Score]) -> dict[str, tuple[Score, ...]]:
    found: dict[str, list[Score]] = {}
    for score in scores:
        if score.metric in _SHARES:
            found.setdefault(score.benchmark, []).append(score)
    return {name: tuple(members) for name, members in found.items() if len(members) > 1}


def shots_table(curves: Mapping[str, Sequence[Score]]) -> dict[str, Any]:
    """Return in-context-learning curves as columns of a chart, in percent."""
    shots = sorted({score.shots for members in curves.values() for score in members})
    series = []
    for name, members in curves.items():
        by = {score.shots: score for score in members}
        series.append(
            {
                "label": name,
                "y": [_percent(by[x].value) if x in by else None for x in shots],
                "low": [_percent(by[x].low) if x in by else None for x in shots],
                "high": [_percent(by[x].high) if x in by else None for x in shots],
            }
        )
    return {"x": shots, "x_label": "demonstrations", "unit": "%", "series": series}


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 4)
