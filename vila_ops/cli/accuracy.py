"""The accuracies of a run as tables: with images beside blind and chance, and on text only."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vila_ops.view import RunView

Rows = dict[int, dict[str, float]]
"""{shots: {metric: value}} of one evaluation task."""
EVALUATIONS = {
    "evaluate-base": "before",
    "evaluate-pretrain": "after pretrain",
    "evaluate": "after sft",
}
"""The evaluations of a recipe in the order of training, by task."""


def tables(run: RunView) -> list[RenderableType]:
    """Return the tables of the evaluations: with images, few-shot after pretrain, text only."""
    found: list[RenderableType] = []
    visual, text = _split(run.metrics)
    when = ", after sft" if run.task("evaluate") else ""
    if visual:
        found.append(_visual(f"accuracy with images{when}", visual))
    between = run.task("evaluate-pretrain")
    if between is not None:  # in-context learning comes from pre-training, so it is shown there too
        few_shot = {
            name: rows for name, rows in _split(between.metrics)[0].items() if len(rows) > 1
        }
        if few_shot:
            found.append(_visual("few-shot accuracy with images, after pretrain", few_shot))
    named = {
        label: task.metrics
        for name, label in EVALUATIONS.items()
        if (task := run.task(name)) and task.metrics
    }
    if text and named:
        found.append(_text_only(text, named))
    return found


def percent(share: float | None) -> str:
    """Return a share as a percentage, or an empty cell."""
    return "" if share is None else f"{100 * share:.1f} %"


def _split(metrics: Mapping[str, float]) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Group accuracies by task: those with a blind baseline, and those without."""
    grouped: dict[str, Rows] = {}
    for key, value in metrics.items():
        task, _, rest = key.partition("/")
        metric, _, shots = rest.partition("@")
        if "." not in task and shots.isdigit():
            grouped.setdefault(task, {}).setdefault(int(shots), {})[metric] = value
    visual: dict[str, Rows] = {}
    text: dict[str, Rows] = {}
    for task, rows in sorted(grouped.items()):
        if any("accuracy" in row for row in rows.values()):
            seen = any("blind_accuracy" in row for row in rows.values())
            (visual if seen else text)[task] = rows
    return visual, text


def _visual(title: str, tasks: Mapping[str, Rows]) -> RenderableType:
    """One row per task: accuracy by shots; blind and chance at the fewest shots."""
    shots = sorted({count for rows in tasks.values() for count in rows})
    table = _table([*(f"{count}-shot" for count in shots), "blind", "chance"])
    for task, rows in tasks.items():
        first = rows[min(rows)]
        cells = [percent(rows.get(count, {}).get("accuracy")) for count in shots]
        blind, chance = percent(first.get("blind_accuracy")), percent(first.get("chance"))
        table.add_row(task, *cells, blind, chance)
    return Group(Text(title, style="bold"), table)


def _text_only(
    tasks: Mapping[str, Rows], named: Mapping[str, Mapping[str, float]]
) -> RenderableType:
    """One row per task and number of shots: accuracy by evaluation."""
    table = _table([*named, "chance"])
    for task, rows in tasks.items():
        for count in sorted(rows):
            name = task if len(rows) == 1 else f"{task} {count}-shot"
            cells = [percent(found.get(f"{task}/accuracy@{count}")) for found in named.values()]
            table.add_row(name, *cells, percent(rows[count].get("chance")))
    return Group(Text("accuracy on text only", style="bold"), table)


def _table(columns: list[str]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("task", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
