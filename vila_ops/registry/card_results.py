"""Sections of a model card: evaluation, in-context learning, gates, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from components.registry import Version
from vila_ops.registry.escape import code, prose, table
from vila_ops.registry.measured import Measured, Results
from vila_ops.registry.trained import Training


def evaluation(results: Results) -> list[str]:
    """Tell what the version was measured on, against the blind baseline and chance."""
    lines = ["## Evaluation", ""]
    if not results.rows:
        return [*lines, "Nothing was measured.", "", *_noted(results)]
    rows = ([*_cells(row)] for row in results.rows)
    columns = ("task", "metric", "shots", "value", "95% interval", "blind", "chance", "questions")
    lines += [*table(columns, rows), ""]
    lines += [
        "Shares are per cent. Blind is the same question without its images. Intervals are those "
        "of the evaluation where it gave them (bootstrap over questions), else Wilson's.",
        "",
    ]
    if results.sha256:
        lines += [f"Every answer is kept in the artifact {code(results.sha256)}.", ""]
    lines += _noted(results)
    curves = results.curves()
    if curves:
        shots = sorted({row.shots for rows in curves.values() for row in rows})
        lines += ["### Learning in context", "", "Value by number of demonstrations:", ""]
        heads = ("task", "metric", *(str(count) for count in shots), "gain")
        lines += [*table(heads, (_curve(rows, shots) for rows in curves.values())), ""]
    return lines


def _noted(results: Results) -> list[str]:
    return [*(f"- {prose(note)}" for note in results.notes), *([""] if results.notes else [])]


def _cells(row: Measured) -> Iterator[str]:
    yield prose(row.task)
    yield prose(row.metric)
    yield str(row.shots)
    yield _value(row, row.value)
    low, high = row.interval or (None, None)
    yield "-" if low is None else f"{_value(row, low)} to {_value(row, high)}"
    yield _value(row, row.blind)
    yield _value(row, row.chance)
    yield f"{row.questions:,}" if isinstance(row.questions, int) else "-"


def _curve(rows: list[Measured], shots: list[int]) -> list[str]:
    found = {row.shots: row for row in rows}
    first, last = rows[0], rows[-1]
    values = [_value(found[n], found[n].value) if n in found else "-" for n in shots]
    gain = f"{(last.value - first.value) * first.scale:+.1f}"
    return [prose(first.task), prose(first.metric), *values, prose(gain)]


def _value(row: Measured, value: float | None) -> str:
    return "-" if value is None else f"{value * row.scale:.1f}"


def gates(version: Version) -> list[str]:
    """Tell what the gates found when the version was registered."""
    lines = ["## Gates", ""]
    verdicts = version.evidence.get("gates") or ()
    if not verdicts:
        return [*lines, "No gate was asked when it was registered.", ""]
    passed = "All passed" if version.evidence.get("passed") else "Not all passed"
    lines += [
        f"{passed} when it was registered. Later decisions are in the registry's history.",
        "",
    ]
    rows = (["passed" if v.get("passed") else "**failed**", prose(v.get("text"))] for v in verdicts)
    return [*lines, *table(("gate", "evidence"), rows), ""]


def limits(version: Version, trained: Training, results: Results) -> list[str]:
    """Tell what the records show of the version's limits, and what they don't."""
    lines = ["## Limits", ""]
    blind = [row for row in results.rows if row.blind is not None and _hardly_sees(row)]
    for row in blind:
        lines += [
            f"- {prose(row.key)}: {_value(row, row.value)} with images, {_value(row, row.blind)} "
            "without; the images may not matter to it."
        ]
    weak = [row for row in results.rows if row.chance is not None and _near_chance(row)]
    for row in weak:
        lines += [f"- {prose(row.key)}: no better than chance ({_value(row, row.chance)})."]
    lines += [f"- {line}" for line in _contaminated(version.evidence.get("contamination"))]
    unstated = [c.name for c in trained.corpora if not c.facts.get("licence")]
    if unstated:
        lines += [f"- The licence of these corpora is not stated: {prose(', '.join(unstated))}."]
    lines += [
        "- Nothing here measures bias, harmful output or how it answers about people.",
        "- The licence of the weights is not recorded; it follows from the bases and corpora.",
        "",
    ]
    return lines


def _hardly_sees(row: Measured) -> bool:
    return row.blind is not None and (row.interval or (row.value, 0))[0] <= row.blind


def _near_chance(row: Measured) -> bool:
    return row.chance is not None and (row.interval or (row.value, 0))[0] <= row.chance


def _contaminated(found: Any) -> Iterator[str]:
    if not isinstance(found, Mapping):
        yield "Whether its training data hold evaluation samples was not checked."
        return
    corpora = found.get("contaminated") or {}
    number = sum(sum(reasons.values()) for reasons in corpora.values())
    yield f"{number:,} samples of its training data were found in the evaluation sets."
