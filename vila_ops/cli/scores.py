"""Results of benchmarks as a table: the number that papers print, and how sure it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vila_core.errors import StoreError
from vila_core.eval.curve import Curve
from vila_core.eval.curve_view import curve_text
from vila_core.eval.records import BLIND
from vila_core.store import ArtifactRef, Store, read_file
from vila_ops.view import RunView, TaskView

STAGES = ("benchmark", "text_benchmark")

Summary = Mapping[str, Any]
"""What a benchmark's summary.json holds."""


def summaries(store: Store, run: RunView) -> list[Summary]:
    """Return the summaries of a run's benchmarks, in the order of its tasks.

    A task that isn't done has none, nor has one whose results are no longer in the store.
    """
    found = [_read(store, task) for task in run.tasks if task.stage in STAGES]
    return [summary for summary in found if summary]


def tables(found: Iterable[Summary]) -> Iterator[RenderableType]:
    """Yield one table, at most 80 columns wide, a row per benchmark and number of shots."""
    listed = list(found)
    if not listed:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("benchmark", no_wrap=True)
    table.add_column("metric", overflow="fold")
    blind = any(_blind(summary, key) is not None for summary in listed for key in _keys(summary))
    columns = ("shots", "value", "95% interval", *(["blind"] if blind else []), "questions")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    notes: list[Text] = []
    for summary in listed:
        notes += [Text(note, style="yellow") for note in _notes(summary)]
        for key, value in _headlines(summary):
            table.add_row(
                summary["benchmark"],
                f"{summary['headline']} ({_short(summary['headline_unit'])})",
                key.rpartition("@")[2],
                _number(summary, value),
                _interval(summary, summary.get("intervals", {}).get(key)),
                *([_number(summary, _blind(summary, key))] if blind else []),
                f"{summary['questions']['asked']:,}",
            )
    yield Group(Text("benchmarks", style="bold"), table, *notes)
    for summary in listed:
        curves = summary.get("in_context", {}).get("curves", {})
        if curves:
            found_curves = {name: Curve.of_json(curve) for name, curve in curves.items()}
            yield Text(curve_text(found_curves, f"{summary['benchmark']}: score by demonstrations"))


def _headlines(summary: Summary) -> Iterator[tuple[str, float | None]]:
    lead = f"{summary['benchmark']}/{summary['headline']}@"
    found = [item for item in summary["metrics"].items() if item[0].startswith(lead)]
    yield from sorted(found, key=lambda item: int(item[0].rpartition("@")[2]))
    if not found:
        yield f"{lead}-", None


def _keys(summary: Summary) -> list[str]:
    return [key for key, _ in _headlines(summary)]


def _blind(summary: Summary, key: str) -> float | None:
    """Return the value of the same metric without images, where it was measured."""
    task, _, metric = key.partition("/")
    return summary["metrics"].get(f"{task}/{BLIND}_{metric}")


def _notes(summary: Summary) -> Iterator[str]:
    name, asked = summary["benchmark"], summary["questions"]
    if asked["asked"] < asked["in_split"]:
        yield (
            f"{name}: only {asked['asked']:,} of {asked['in_split']:,} questions were asked; the "
            "value does not compare with published ones"
        )
    if summary.get("missing"):
        yield summary["missing"]
    health = summary["health"]
    for what in ("unanswered", "unfinished", "control_characters"):
        if health.get(what):
            yield f"{name}: {health[what]:,} of {health['answers']:,} answers {_WORDS[what]}"


_WORDS = {
    "unanswered": "are empty",
    "unfinished": "were cut at the longest length",
    "control_characters": "hold control characters",
}


def _number(summary: Summary, value: float | None) -> str:
    return "-" if value is None else f"{value * _scale(summary):.1f}"


def _interval(summary: Summary, interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "-"
    low, high = (interval[end] * _scale(summary) for end in ("low", "high"))
    return f"{low:.1f} to {high:.1f}"


def _scale(summary: Summary) -> float:
    unit = summary["headline_unit"]
    return 100.0 if unit.startswith("%") or "x 100" in unit else 1.0


def _short(unit: str) -> str:
    return unit.partition(",")[0]


def _read(store: Store, task: TaskView) -> Summary | None:
    for artifact in task.artifacts:
        if artifact["name"] == "results":
            ref = ArtifactRef(artifact["uri"], artifact["sha256"])
            try:
                return json.loads(read_file(store, ref, "summary.json"))
            except StoreError:
                return None
    return None
