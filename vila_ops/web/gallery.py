"""Questions of a benchmark with what each evaluation of a run answered to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila_core.errors import VilaError
from vila_core.eval.records import BLIND, SEEN
from vila_core.store import Store, read_file, ref_of
from vila_ops.kept import Kept
from vila_ops.run_index import finite
from vila_ops.samples import Part, Samples
from vila_ops.view import RunView, TaskView
from vila_ops.web.results import evaluations

PAGE = 12
MOST_BYTES = 12 * 2**20
MOST_EVALUATIONS = 6
MOST_TEXT = 600

SHOWN = ("all", "wrong", "right")

_rows: Kept[Mapping[str, Sequence[Mapping[str, Any]]]] = Kept(MOST_BYTES)


@dataclass(frozen=True)
class Said:
    """What one evaluation's model answered."""

    task: str
    answer: str
    score: float | None
    blind: str | None = None
    """What it answered without the image, where that was asked."""


@dataclass(frozen=True)
class Sample:
    """A question, with its images where the store has them, else with why not."""

    key: str
    reference: str
    parts: tuple[Part, ...]
    demos: int
    said: tuple[Said, ...]
    problem: str = ""


@dataclass(frozen=True)
class Gallery:
    """A page of samples, and what else can be asked for."""

    benchmarks: tuple[str, ...]
    benchmark: str
    shots: tuple[int, ...]
    shot: int
    show: str
    samples: tuple[Sample, ...]
    found: int
    page: int
    pages: int


def gallery(
    store: Store,
    samples: Samples,
    view: RunView,
    *,
    benchmark: str = "",
    shots: int | None = None,
    show: str = "all",
    page: int = 1,
) -> Gallery | None:
    """Return samples of a benchmark of a run's own evaluation; None for a run without one.

    What means nothing is as if it were not asked. Raises StoreError where the answers can't be
    read.
    """
    tasks = [task for task in evaluations(view) if _results(task)]
    if not tasks:
        return None
    names = tuple(dict.fromkeys(_benchmarks(tasks[0])))
    if not names:
        return None
    benchmark = benchmark if benchmark in names else _usual(names, tasks[0])
    rows = _of(store, tasks[0], benchmark)
    counts = tuple(sorted({row["shots"] for row in rows.get(SEEN, ())}))
    shot = shots if shots is not None and shots in counts else next(iter(counts), 0)
    mine = [row for row in rows.get(SEEN, ()) if row["shots"] == shot]
    if show in ("wrong", "right"):
        wrong = show == "wrong"
        mine = [row for row in mine if row["score"] is not None and (row["score"] < 0.5) == wrong]
    pages = max(1, -(-len(mine) // PAGE))
    page = min(max(1, page), pages)
    chosen = mine[(page - 1) * PAGE : page * PAGE]
    others = [_answers(store, task, benchmark, shot) for task in tasks[:MOST_EVALUATIONS]]
    return Gallery(
        benchmarks=names,
        benchmark=benchmark,
        shots=counts,
        shot=shot,
        show=show if show in SHOWN else "all",
        samples=tuple(_sample(samples, view, tasks[0], row, others) for row in chosen),
        found=len(mine),
        page=page,
        pages=pages,
    )


def _results(task: TaskView) -> str:
    return next((one["sha256"] for one in task.artifacts if one["name"] == "results"), "")


def _benchmarks(task: TaskView) -> Iterator[str]:
    for name in task.metrics:
        benchmark = name.partition("/")[0]
        if "." not in benchmark:
            yield benchmark


def _usual(names: Sequence[str], task: TaskView) -> str:
    """Return the benchmark that is shown first: one with images, where there is one."""
    visual = [name for name in names if f"{name}/blind_accuracy@0" in task.metrics]
    vqa = [name for name in visual if "vqa" in name]
    return [*vqa, *visual, *names][0]


def _of(store: Store, task: TaskView, benchmark: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return records of a benchmark by condition (seen, blind)."""
    sha256 = _results(task)

    def read() -> tuple[Mapping[str, Sequence[Mapping[str, Any]]], int]:
        data = read_file(store, ref_of(store, sha256), "records.jsonl")
        found: dict[str, list[Mapping[str, Any]]] = {SEEN: [], BLIND: []}
        quoted = json.dumps(benchmark).encode()
        size = 0
        for line in data.splitlines():
            row = _row(line) if quoted in line else None
            if row and row["task"] == benchmark and row["condition"] in found:
                found[row["condition"]].append(row)
                size += 800 + len(line)
        return found, size + 100

    return _rows.get((store.uri, sha256, benchmark), read)


def _row(line: bytes) -> dict[str, Any] | None:
    """Return what is needed of a record; None for what is none of ours."""
    try:
        row = json.loads(line)
        reference = row.get("reference")
        if reference is None:
            reference = " / ".join(map(str, (row.get("references") or ())[:5]))
        return {
            "key": str(row["key"]),
            "task": str(row["task"]),
            "shots": int(row.get("shots") or 0),
            "condition": str(row["condition"]),
            "answer": str(row["answer"])[:MOST_TEXT],
            "reference": str(reference)[:MOST_TEXT],
            "score": finite(row.get("score")),
            "prompt_digest": str(row.get("prompt_digest") or ""),
            "trial": (row.get("seed"), row.get("order")),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _answers(
    store: Store, task: TaskView, benchmark: str, shots: int
) -> tuple[TaskView, Mapping[str, Said]]:
    """Return what an evaluation answered, by key; nothing where that can't be read."""
    try:
        rows = _of(store, task, benchmark)
    except VilaError:
        return task, {}
    blind = {row["key"]: row["answer"] for row in rows[BLIND] if row["shots"] == shots}
    return task, {
        row["key"]: Said(task.name, row["answer"], row["score"], blind.get(row["key"]))
        for row in rows[SEEN]
        if row["shots"] == shots
    }


def _sample(
    samples: Samples,
    view: RunView,
    task: TaskView,
    row: Mapping[str, Any],
    others: Sequence[tuple[TaskView, Mapping[str, Said]]],
) -> Sample:
    said = tuple(found[row["key"]] for _, found in others if row["key"] in found)
    try:
        found = samples.of_record(view.run_id, task.name, row)
    except VilaError as error:
        return Sample(row["key"], row["reference"], (), 0, said, str(error))
    return Sample(row["key"], row["reference"], found.question, len(found.demos), said)
