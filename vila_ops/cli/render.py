"""Runs as tables for the terminal."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from vila_ops.cli import accuracy
from vila_ops.compare import Comparison
from vila_ops.run_index import RunRow
from vila_ops.view import RunView, TaskView

MOST_ROWS = 24
"""Tasks that a live table shows one by one: more would not fit on a screen."""
STYLES = {
    "succeeded": "green",
    "cached": "cyan",
    "running": "yellow",
    "failed": "bold red",
    "stopped": "magenta",
    "interrupted": "magenta",
}


def console() -> Console:
    """Return a console for stdout that never breaks words to fit an unknown width."""
    made = Console(highlight=False, soft_wrap=False)
    return made if made.is_terminal else Console(highlight=False, width=max(made.width, 100))


def duration(seconds: float | None) -> str:
    """Return a duration as people say it: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def state(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=STYLES.get(status, "dim"))


def live_table(run: RunView) -> RenderableType:
    """Return the table of a run that is under way; of many tasks, those that run or failed."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("task", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("progress", no_wrap=True, width=14)
    for column in ("done", "loss", "time", "left"):
        table.add_column(column, no_wrap=True, justify="right")
    for task in run.tasks:
        if len(run.tasks) <= MOST_ROWS or task.status in ("running", "failed"):
            table.add_row(task.name, state(task.status), *_progress(task))
    done = sum(task.status in ("succeeded", "cached") for task in run.tasks)
    count = f"  {done} of {len(run.tasks)} tasks done"
    title = Text.assemble((run.run_id, "bold"), "  ", state(run.status), f"  {run.recipe}{count}")
    return Group(title, table)


def _progress(task: TaskView) -> Iterable[RenderableType]:
    loss = task.loss
    shown = "" if loss is None else f"{loss:.3f}"
    done, total = task.progress.get("done") or 0, task.progress.get("total") or 0
    if task.status != "running" or not total:
        return ("", "", shown, duration(task.duration_s), "")
    left = (task.duration_s or 0) * (total - done) / done if done else None
    bar = ProgressBar(total=total, completed=done, width=14)
    return (bar, f"{done}/{total}", shown, duration(task.duration_s), duration(left))


def task_table(run: RunView) -> Table:
    """Return the table of the tasks: state, time and loss."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    keys = ("loss_first", "loss", "tokens_per_s")
    trained = any(key in task.metrics for task in run.tasks for key in keys)
    for column in ("loss first", "loss last", "tokens/s") if trained else ():
        table.add_column(column, justify="right", no_wrap=True)
    for task in run.tasks:
        first, last, speed = (task.metrics.get(key) for key in keys)
        cells = [
            *("" if value is None else f"{value:.3f}" for value in (first, last)),
            "" if speed is None else f"{speed:,.0f}",
        ]
        row = (task.name, state(task.status), duration(task.duration_s))
        table.add_row(*row, *(cells if trained else ()))
    return table


def print_run(run: RunView, more: Iterable[RenderableType] = ()) -> None:
    """Print the final tables of a run and `more`, what went wrong, and what to do next."""
    out = console()
    taken = f" in {duration(run.duration_s)}" if run.duration_s is not None else ""
    out.print(
        Text.assemble((run.run_id, "bold"), "  ", state(run.status), f"{taken}  {run.recipe}")
    )
    out.print()
    out.print(task_table(run))
    for table in (*more, *accuracy.tables(run)):
        out.print()
        out.print(table)
    out.print()
    for line in _endings(run):
        out.print(Text(line), soft_wrap=True)


def _endings(run: RunView) -> Iterable[str]:
    failed = [task for task in run.tasks if task.status == "failed"]
    for task in failed:
        yield f"{task.name}: {task.error or f'exit code {task.exit_code}'}"
        yield f"log: vila logs {run.run_id} {task.name}"
    if run.error and not failed:
        yield f"error: {run.error}"
    for task in run.tasks:
        if "promoted" in task.metrics:
            yield _registered(run, task)
    if run.status in ("failed", "stopped", "interrupted"):
        yield f"continue it with: vila resume {run.run_id}"


def _registered(run: RunView, task: TaskView) -> str:
    config = run.config.get(task.name, {})
    name = f"{config.get('model')}@{task.metrics.get('version', 0):.0f}"
    if task.metrics["promoted"]:
        return f"registered as {name}; the gates passed, {config.get('alias')} points at it"
    return f"registered as {name}; a gate did not pass: vila registry show {name}"


def print_runs(runs: Sequence[RunRow]) -> None:
    """Print the table of `vila runs`; plainly, as rich needs seconds for thousands of rows."""
    out = console()
    rows = [("run", "recipe", "state", "started", "time", "tasks")]
    rows += [
        (
            run.run_id,
            run.recipe,
            run.status,
            run.started_at[:16].replace("T", " "),
            duration(run.duration_s),
            f"{run.done}/{len(run.tasks)}",
        )
        for run in runs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[-1] = f"{row[-1]:>{widths[-1]}}"
        if out.is_terminal and not out.no_color:
            cells = [style.render(cell) for cell, style in zip(cells, _styles(row[2]), strict=True)]
        lines.append("  ".join(cells).rstrip())
    out.file.write("\n".join(lines) + "\n")


@functools.cache
def _styles(status: str) -> list[Style]:
    plain = Style.parse("bold" if status == "state" else "none")
    shown = plain if status == "state" else Style.parse(STYLES.get(status, "dim"))
    return [plain, plain, shown, plain, plain, plain]


def print_comparison(compared: Comparison) -> None:
    """Print runs side by side: first the settings that differ, then losses and metrics."""
    out = console()
    letters = [chr(ord("A") + index) for index in range(len(compared.runs))]
    for letter, run in zip(letters, compared.runs, strict=True):
        out.print(Text.assemble((letter, "bold"), f"  {run.run_id}  ", state(run.status)))
    parts = (
        ("settings that differ", compared.settings),
        ("tasks", compared.tasks),
        ("metrics", compared.metrics),
    )
    for title, rows in parts:
        out.print()
        if not rows:
            out.print(f"{title}: none", style="dim")
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(title, overflow="fold")
        for letter in letters:
            table.add_column(letter, justify="right", overflow="fold")
        noise = compared.noise if title == "metrics" else {}
        if noise:
            table.add_column("by seeds", justify="right", no_wrap=True)
        for key, row in rows.items():
            by_seeds = [_by_seeds(compared, key)] if noise else []
            table.add_row(key, *[cell(value) for value in row], *by_seeds)
        out.print(table)
        for size in sorted({spread.size for spread in noise.values()}):
            out.print(
                f"by seeds: how far two runs of size {size} lie apart by their seeds alone, 95 "
                "times in 100 (vila noise show)",
                style="dim",
                soft_wrap=True,
            )


def _by_seeds(compared: Comparison, metric: str) -> str:
    if metric not in compared.noise:
        return "-"
    within = ", within" if compared.within_noise(metric) else ""
    return f"±{compared.noise[metric].difference():.3f}{within}"


def cell(value: object) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
