"""Runs the tasks of a graph in dependency order: some side by side, the most urgent first."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from vila_core.errors import VilaError
from vila_core.store import ArtifactRef
from vila_ops.driver.graph import Graph, Task

Outputs = Mapping[str, ArtifactRef]

POLL_SECONDS = 0.03
STOP_SECONDS = 5.0


class TaskError(VilaError):
    """A task ended with an exit code that is not 0."""

    def __init__(self, task: str, exit_code: int) -> None:
        super().__init__(f"task '{task}' ended with exit code {exit_code}")
        self.task = task
        self.task_exit_code = exit_code


class Running(Protocol):
    """A started task."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        ...

    def outputs(self) -> Outputs:
        """Return the artifacts after exit code 0."""
        ...

    def last_lines(self) -> str:
        """Return the end of what the task printed."""
        ...

    def reason(self) -> str:
        """Return why it ended, where more than its exit code is known; else ""."""
        ...

    def stop(self, how: signal.Signals) -> None:
        """Send a signal to the whole process group."""
        ...

    def clean(self) -> None:
        """Remove what the task left beside its record, processes included."""
        ...


def run_graph(
    graph: Graph,
    *,
    look_up: Callable[[Task, Outputs], Outputs | None],
    start: Callable[[Task, Outputs], Running],
    ended: Callable[[Task, Running, int], None],
    check: Callable[[], None],
    max_parallel: int,
) -> dict[str, Outputs]:
    """Run all tasks and return their outputs by task name.

    `look_up` answers from the cache, before a task is started; `ended` is told of every process
    that ended, stopped ones too; `check` is called again and again and raises to end the run. When
    it does, or a task fails, the tasks that are running are stopped. Raises TaskError for the task
    that failed.
    """
    done: dict[str, Outputs] = {}
    ready: list[tuple[Task, Outputs]] = []  # not in the cache, in order of urgency
    waiting = dict(graph.tasks)
    running: dict[str, tuple[Task, Running]] = {}
    try:
        while waiting or ready or running:
            check()
            for name in [n for n, task in waiting.items() if task.depends_on <= done.keys()]:
                task = waiting.pop(name)
                inputs = {i: done[source][output] for i, (source, output) in task.inputs.items()}
                found = look_up(task, inputs)
                if found is None:
                    ready.append((task, inputs))
                else:
                    done[name] = found
            ready.sort(key=lambda item: -graph.urgency[item[0].name])
            while ready and len(running) < max_parallel:
                if any(task.depends_on <= done.keys() for task in waiting.values()):
                    break  # a hit made more tasks ready; one of them may be more urgent
                task, inputs = ready.pop(0)
                running[task.name] = (task, start(task, inputs))
            for name, (task, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[name]
                try:
                    ended(task, process, code)
                    if code:
                        raise TaskError(name, code)
                    done[name] = process.outputs()
                finally:
                    process.clean()
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        stop_all([process for _, process in running.values()])
        for task, process in running.values():
            ended(task, process, process.poll() or 0)
            process.clean()
    return done


def stop_all(processes: list[Running]) -> None:
    """End process groups: TERM, and KILL for what is left after five seconds."""
    for process in processes:
        process.stop(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline:
            for process in processes:
                process.stop(signal.SIGKILL)
        time.sleep(POLL_SECONDS)
