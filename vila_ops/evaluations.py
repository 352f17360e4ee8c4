"""Evaluations read for comparing: scores by benchmark as arrays, remembered by their digest.

Records never change (they are addressed by content), so what was read of them once holds for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vila_core.errors import UserError
from vila_core.eval.answers import Answers, Key
from vila_core.eval.read_answers import answers_of
from vila_core.store import Store
from vila_ops.kept import Kept
from vila_ops.runs import find_run, find_task, load_view
from vila_ops.view import FINAL_EVALUATION, RunView, TaskView

RESULTS = "results"
MOST_BYTES = 32 * 2**20
"""Twice what 20 runs of 10 benchmarks by 5,000 answers take."""


@dataclass(frozen=True)
class Evaluation:
    """What a run, or one task of it, was asked: the groups of its records.

    `name` is how it is told in messages. `digest` names the content, `makers` the results artifact
    and the task of each group.
    """

    name: str
    groups: Mapping[Key, Answers]
    digest: str
    makers: Mapping[Key, tuple[str, str]]
    """Of each group the task and the artifact that its records are from."""


class Evaluations:
    """Evaluations of any store by their content, in bounded memory; threads may share it."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Read nothing yet."""
        self._kept: Kept[Mapping[Key, Answers]] = Kept(most_bytes)

    def open(self, store: Store, view: RunView, task_name: str = "") -> Evaluation:
        """Read the records of a run's evaluation; blind and other controls aside.

        Without a task's name: the final evaluation, or all where the run has no such task. Raises
        UserError where there are no records, or several of the same benchmark; NotFound, Damaged.
        """
        groups: dict[Key, Answers] = {}
        makers: dict[Key, tuple[str, str]] = {}
        tasks = evaluated(view, task_name)
        for task in tasks:
            sha256 = results_of(task)
            for key, group in self.groups(store, sha256).items():
                if key in groups:
                    raise UserError(
                        f"run {view.run_id} has several evaluations of {key[0]}; name one of them: "
                        f"{view.run_id}:{makers[key][0]} or {view.run_id}:{task.name}"
                    )
                groups[key] = group
                makers[key] = task.name, sha256
        return Evaluation(name_of(view, task_name), groups, content_of(tasks), makers)

    def known(self, view: RunView, task_name: str = "") -> bool:
        """Return whether the records of a run's evaluation need not be read any more."""
        try:
            tasks = evaluated(view, task_name)
        except UserError:
            return True  # to be told at once
        return all(self._kept.peek(results_of(task)) is not None for task in tasks)

    def groups(self, store: Store, sha256: str) -> Mapping[Key, Answers]:
        """Return the groups of one results artifact."""

        def load() -> tuple[Mapping[Key, Answers], int]:
            found = answers_of(store, sha256)
            return found, sum(group.bytes for group in found.values()) + 1000

        return self._kept.get(sha256, load)


def open_evaluation(store: Store, text: str, cache: Evaluations | None = None) -> Evaluation:
    """Open what `RUN` or `RUN:TASK` names; see `Evaluations.open`."""
    run_text, _, task_name = text.partition(":")
    view = load_view(store, find_run(store, run_text))
    return (cache or Evaluations()).open(store, view, task_name)


def evaluated(view: RunView, name: str = "") -> list[TaskView]:
    """Return the tasks whose records count. Raises UserError when there are none."""
    if name:
        chosen = [find_task(view, name)]
    else:
        final = view.task(FINAL_EVALUATION)
        chosen = [final] if final is not None else list(view.tasks)
    found = [task for task in chosen if results_of(task)]
    if not found:
        what = f"task {name} of run {view.run_id}" if name else f"run {view.run_id}"
        others = [task.name for task in view.tasks if results_of(task)]
        fix = (
            f"name one that has: {view.run_id}:{others[0]}"
            if others
            else "finish an evaluation of it first"
        )
        raise UserError(f"{what} has no records of an evaluation; {fix}")
    return found


def name_of(view: RunView, task_name: str) -> str:
    """Return how an evaluation is called: `RUN`, or `RUN:TASK`."""
    return f"{view.run_id}:{task_name}" if task_name else view.run_id


def content_of(tasks: Sequence[TaskView]) -> str:
    """Return the digest of what evaluations gave; nothing is read for it."""
    return hashlib.sha256(" ".join(sorted(map(results_of, tasks))).encode()).hexdigest()


def results_of(task: TaskView) -> str:
    """Return the digest of a task's results, "" where it has none."""
    return next((made["sha256"] for made in task.artifacts if made["name"] == RESULTS), "")
