"""Evaluations read for comparing: scores by benchmark as arrays, remembered by their digest.

Records never change (they are addressed by content), so what was read of them once holds for ever.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vila_core.errors import Damaged, NotFound, UserError
from vila_core.eval.records import SEEN
from vila_core.store import Store, read_file, ref_of
from vila_ops.kept import Kept
from vila_ops.runs import find_run, find_task, load_view
from vila_ops.view import FINAL_EVALUATION, RunView, TaskView

RECORDS, RESULTS = "records.jsonl", "results"
MOST_BYTES = 64 * 2**20

Key = tuple[str, int]
"""Benchmark (or task of an evaluation set) and number of shots."""


@dataclass(frozen=True)
class Questions:
    """What was asked, in order: keys, their places, and the units that they belong to.

    Evaluations of the same benchmark share it.
    """

    keys: tuple[str, ...]
    index: Mapping[str, int]
    units: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The seen answers to one benchmark at one number of shots; arrays are by question.

    `scores` are means over draws of demonstrations. `prompts` tell what was asked from other words.
    `places` says where the line of the first draw begins in the records, `lines` is a digest of it.
    `rounds` are the scores of
    each draw, by (seed, order); empty where draws are not of the same questions. A score that is
    not known makes `scored` False.
    """

    asked: Questions
    scores: NDArray[np.float64]
    prompts: NDArray[np.uint64]
    places: NDArray[np.int64]
    lines: NDArray[np.uint64]
    versions: frozenset[str]
    scored: bool
    rounds: Mapping[tuple[int, int], NDArray[np.float64]]

    @property
    def bytes(self) -> int:
        """What it takes in memory, the questions aside."""
        arrays = (self.scores, self.prompts, self.places, self.lines, *self.rounds.values())
        return sum(one.nbytes for one in arrays) + 500


@dataclass(frozen=True)
class Evaluation:
    """What a run, or one task of it, was asked: the groups of its records.

    `name` is how it is told in messages. `digest` names the content, `makers` the results artifact
    and the task of each group.
    """

    name: str
    groups: Mapping[Key, Group]
    digest: str
    makers: Mapping[Key, tuple[str, str]]
    """Of each group the task and the artifact that its records are from."""


@dataclass
class _Rows:
    keys: dict[str, int] = field(default_factory=dict)
    rounds: dict[tuple[int, int], dict[int, float]] = field(default_factory=dict)
    units: list[str] = field(default_factory=list)
    prompts: list[list[str]] = field(default_factory=list)
    sums: list[list[float]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    scored: bool = True

    def add(self, row: Mapping[str, Any], place: int, line: bytes) -> None:
        """Take a record; `place` is where its line begins."""
        key = sys.intern(row["key"])
        at = self.keys.setdefault(key, len(self.keys))
        if at == len(self.units):
            self.units.append(sys.intern(row.get("unit") or key))
            self.prompts.append([])
            self.sums.append([])
            self.places.append(place)
            self.lines.append(_digest(line))
        self.versions.add(str(row.get("version", "")))
        self.prompts[at].append(str(row.get("prompt_digest", "")))
        score = row["score"]
        if score is None:
            self.scored = False
            return
        score = float(score)
        self.sums[at].append(score)
        asked = int(row.get("seed", 0)), int(row.get("order", 0))
        self.rounds.setdefault(asked, {})[at] = score

    def group(self) -> Group:
        """Return the arrays."""
        means = [math.fsum(found) / len(found) if found else math.nan for found in self.sums]
        whole = all(len(found) == len(self.keys) for found in self.rounds.values())
        return Group(
            asked=_shared(self.keys, self.units),
            scores=np.array(means),
            prompts=np.array([_prompts(found) for found in self.prompts], dtype=np.uint64),
            places=np.array(self.places, dtype=np.int64),
            lines=np.array(self.lines, dtype=np.uint64),
            versions=frozenset(self.versions),
            scored=self.scored,
            rounds={
                asked: np.array([found[at] for at in range(len(self.keys))])
                for asked, found in self.rounds.items()
            }
            if whole and self.scored
            else {},
        )


class Evaluations:
    """Evaluations of any store by their content, in bounded memory; threads may share it."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Read nothing yet."""
        self._kept: Kept[Mapping[Key, Group]] = Kept(most_bytes)

    def open(self, store: Store, view: RunView, task_name: str = "") -> Evaluation:
        """Read the records of a run's evaluation; blind and other controls aside.

        Without a task's name: the final evaluation, or all where the run has no such task. Raises
        UserError where there are no records, or several of the same benchmark; NotFound, Damaged.
        """
        groups: dict[Key, Group] = {}
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

    def groups(self, store: Store, sha256: str) -> Mapping[Key, Group]:
        """Return the groups of one results artifact."""

        def load() -> tuple[Mapping[Key, Group], int]:
            data = records_of(store, sha256)
            found = _groups(data, f"{ref_of(store, sha256).uri}/{RECORDS}")
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


def records_of(store: Store, sha256: str) -> bytes:
    """Return the records of a results artifact. Raises NotFound, Damaged."""
    return read_file(store, ref_of(store, sha256), RECORDS)


def record_at(
    store: Store, sha256: str, group: Group, place: int, held: dict[str, bytes]
) -> dict[str, Any]:
    """Return the record of a question's first draw, checked against what was read before.

    Of a directory that line alone is read; of a bucket all records are, and stay in `held`. Raises
    NotFound, Damaged.
    """
    begin = int(group.places[place])
    path = store.local_path(f"artifacts/{sha256}/{RECORDS}")
    if path is None:
        if sha256 not in held:
            held[sha256] = records_of(store, sha256)
        data = held[sha256]
        end = data.find(b"\n", begin)
        line = data[begin : end if end >= 0 else len(data)]
    else:
        try:
            with path.open("rb") as file:
                file.seek(begin)
                line = file.readline().rstrip(b"\n")
        except FileNotFoundError:
            raise NotFound(f"{ref_of(store, sha256).uri}/{RECORDS}: is gone.") from None
    if _digest(line) != int(group.lines[place]):
        raise Damaged(f"{ref_of(store, sha256).uri}/{RECORDS}: is not what it was.")
    return json.loads(line)


def _digest(line: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest())


def _groups(data: bytes, where: str) -> dict[Key, Group]:
    """Return the groups of records. Raises UserError naming the line that is none."""
    found: dict[Key, _Rows] = {}
    place = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line:
            try:
                row = json.loads(line)
                key = sys.intern(row["task"]), int(row["shots"])
                seen = row["condition"] == SEEN
                rows = found.setdefault(key, _Rows()) if seen else _Rows()
                rows.add(row, place, line)
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(f"{where}:{number}: is not a record of an evaluation") from None
        place += len(line) + 1
    return {key: rows.group() for key, rows in found.items()}


_questions: Kept[Questions] = Kept(MOST_BYTES // 2)


def _shared(index: dict[str, int], units: list[str]) -> Questions:
    content = hashlib.sha256("\0".join([*index, *units]).encode("utf-8", "surrogatepass"))

    def make() -> tuple[Questions, int]:
        return Questions(tuple(index), index, tuple(units)), 250 * len(index) + 300

    return _questions.get(content.digest(), make)


def _prompts(digests: list[str]) -> int:
    """Return what tells the prompts of one question from others."""
    text = "\n".join(digests).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])
