"""The accuracies of a run as tables: with images beside blind and chance, and on text only."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from vila_ops.view import RunView

Grouped = dict[str, dict[int, dict[str, float]]]
"""{task: {shots: {metric: value}}}."""


def tables(run: RunView) -> list[Table]:
    """Return the tables of the evaluations: visual tasks, then text-only ones."""
    visual, text = _split(run.metrics)
    found = []
    if visual:
        found.append(_visual(visual))
    text_rows = _text_only(run, text)
    if text_rows is not None:
        found.append(text_rows)
    return found


def _split(metrics: Mapping[str, float]) -> tuple[Grouped, Grouped]:
    """Group accuracies by task: those with a blind baseline, and those without."""
    grouped: Grouped = {}
    for key, value in metrics.items():
        task, _, rest = key.partition("/")
        metric, _, shots = rest.partition("@")
        if "." not in task and shots.isdigit():
            grouped.setdefault(task, {}).setdefault(int(shots), {})[metric] = value
    visual: Grouped = {}
    text: Grouped = {}
    for task, rows in sorted(grouped.items()):
        if any("accuracy" in row for row in rows.values()):
            seen = any("blind_accuracy" in row for row in rows.values())
            (visual if seen else text)[task] = rows
    return visual, text


def _visual(tasks: Grouped) -> Table:
    shots = sorted({count for rows in tasks.values() for count in rows})
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left", title_style="bold"
    )
    table.title = "accuracy with images"
    table.add_column("task", no_wrap=True)
    for count in shots:
        table.add_column(f"{count}-shot", justify="right", no_wrap=True)
    table.add_column("blind", justify="right", no_wrap=True)
    table.add_column("chance", justify="right", no_wrap=True)
    for task, rows in tasks.items():
        first = rows[min(rows)]
        cells = [percent(rows.get(count, {}).get("accuracy")) for count in shots]
        blind, chance = percent(first.get("blind_accuracy")), percent(first.get("chance"))
        table.add_row(task, *cells, blind, chance)
    return table


def _text_only(run: RunView, tasks: Grouped) -> Table | None:
    """Compare text-only accuracy across all evaluations of the run, in the order of training."""
    evaluations = [task for task in run.tasks if task.stage == "evaluate" and task.metrics]
    order = {"evaluate-base": ("before", 0), "evaluate-pretrain": ("after pretrain", 1)}
    named = sorted(
        (order.get(task.name, ("after sft", 2)) + (task.metrics,) for task in evaluations),
        key=lambda item: item[1],
    )
    if not tasks or not named:
        return None
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left", title_style="bold"
    )
    table.title = "accuracy on text only"
    table.add_column("task", no_wrap=True)
    for label, _, _ in named:
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("chance", justify="right", no_wrap=True)
    for task, rows in tasks.items():
        for count in sorted(rows):
            name = task if len(rows) == 1 else f"{task} {count}-shot"
            cells = [percent(found.get(f"{task}/accuracy@{count}")) for _, _, found in named]
            table.add_row(name, *cells, percent(rows[count].get("chance")))
    return table


def percent(share: float | None) -> str:
    """Return a share as a percentage, or an empty cell."""
    return "" if share is None else f"{100 * share:.1f} %"
