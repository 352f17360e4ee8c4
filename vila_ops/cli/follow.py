"""A run while it is under way: a live table on a terminal, one line per event elsewhere.

It reads the run's record, as everybody else does; so it looks the same whoever drives the run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vila_core.errors import VilaError
from vila_ops.cli import render, scores
from vila_ops.runs import load_view
from vila_ops.view import RunView, TaskView

if TYPE_CHECKING:
    from vila_core.store import Store

LIVE_SECONDS = 0.25
LINE_SECONDS = 0.5
REPORT_SECONDS = 30.0


@contextlib.contextmanager
def display(store: Store, run_id: str, *, quiet: bool = False) -> Iterator[None]:
    """Show the run while the body drives it."""
    if quiet:
        yield
        return
    console = render.console()
    show = _live if console.is_terminal else _lines
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(store, run_id, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5)


def print_result(store: Store, run_id: str) -> None:
    """Print how the run ended: the final tables, or what failed and what to do next."""
    view = load_view(store, run_id)
    render.print_run(view, scores.tables(scores.summaries(store, view)))


def _view(store: Store, run_id: str) -> RunView | None:
    """Read the run; nothing while the store is out of reach, which must not end the run."""
    try:
        return load_view(store, run_id)
    except VilaError:
        return None


def _live(store: Store, run_id: str, ended: threading.Event) -> None:
    from rich.live import Live

    with Live(console=render.console(), auto_refresh=False, transient=True) as live:
        while not ended.wait(LIVE_SECONDS):
            if view := _view(store, run_id):
                live.update(render.live_table(view), refresh=True)


def _lines(store: Store, run_id: str, ended: threading.Event) -> None:
    seen: dict[str, tuple[str, int]] = {}
    told: dict[str, float] = {}
    print(f"run {run_id}", flush=True)
    last = False
    while not last:
        last = ended.wait(LINE_SECONDS)
        view = _view(store, run_id)
        for task in view.tasks if view else ():
            state = (task.status, task.attempt)
            changed = seen.get(task.name) != state
            due = time.monotonic() - told.get(task.name, 0.0) > REPORT_SECONDS
            if task.status in ("waiting", "not run") or not (
                changed or (due and task.status == "running")
            ):
                continue
            seen[task.name] = state
            told[task.name] = time.monotonic()
            print(_line(task), flush=True)


def _line(task: TaskView) -> str:
    parts = [f"{time.strftime('%H:%M:%S')}  {task.name:<18} {task.status:<10}"]
    if task.status == "running" and task.progress.get("total"):
        parts.append(f"{task.progress['done']}/{task.progress['total']}")
    elif task.status != "running":
        parts.append(render.duration(task.duration_s))
    if task.loss is not None:
        parts.append(f"loss {task.loss:.3f}")
    return "  ".join(parts).rstrip()
