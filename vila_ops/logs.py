"""Logs of tasks, as far as they are written; on wish until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from vila_core.errors import NotFound
from vila_core.store import Store
from vila_ops.runs import find_task, load_view
from vila_ops.view import RunView, TaskView

POLL_SECONDS = 0.5


def log_lines(
    store: Store,
    run_id: str,
    task: str | None,
    *,
    follow: bool,
    read: Callable[[Store, str], RunView] = load_view,
) -> Iterator[str]:
    """Yield the lines of one task's log, or of all tasks' logs with the task's name before each.

    The latest attempt of a task is meant. With `follow`, new lines are yielded until the run ends,
    as `read` tells. Raises UserError for an unknown task.
    """
    view = read(store, run_id)
    if task is not None:
        find_task(view, task)
    width = max(len(each.name) for each in view.tasks)
    done: dict[tuple[str, int], int] = {}
    while True:
        for each in _started(view, task):
            label = "" if task else f"{each.name:<{width}} | "
            yield from (label + line for line in _news(store, view, each, done))
        if not follow or view.status != "running":
            return
        time.sleep(POLL_SECONDS)
        # The view is taken before the logs are read again: what was written last is not missed.
        view = read(store, run_id)


def _started(view: RunView, task: str | None) -> list[TaskView]:
    found = [each for each in view.tasks if each.attempt and task in (None, each.name)]
    return sorted(found, key=lambda each: each.started_at or "")


def _news(
    store: Store, view: RunView, task: TaskView, done: dict[tuple[str, int], int]
) -> Iterator[str]:
    """Yield the whole lines that came since last time; of an ended run, the last part too."""
    try:
        data = store.read(f"runs/{view.run_id}/tasks/{task.name}/{task.attempt:03d}/log.txt")
    except NotFound:
        return
    place = (task.name, task.attempt)
    start = done.get(place, 0)
    end = len(data) if view.status != "running" else data.rfind(b"\n") + 1
    if end <= start:
        return
    done[place] = end
    yield from data[start:end].decode("utf-8", errors="replace").splitlines()
