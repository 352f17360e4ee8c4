"""Two checkpoints on the same questions, from the record of every sample that evaluations keep."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.registry.noise import Spread
from vila_core.errors import UserError
from vila_core.eval.bootstrap import unit_error, unit_interval, unit_sums
from vila_core.eval.records import SEEN
from vila_core.eval.significance import holm, mcnemar, minimum_detectable_effect, permutation
from vila_core.store import Store, read_file, ref_of
from vila_ops.runs import find_run, find_task, load_view
from vila_ops.view import FINAL_EVALUATION, RunView, TaskView

RECORDS, RESULTS = "records.jsonl", "results"
LEVEL, POWER = 0.95, 0.8

Key = tuple[str, int]
"""Benchmark (or task of an evaluation set) and number of shots."""


@dataclass(frozen=True)
class Row:
    """One benchmark at one number of shots. Scores and differences (second minus first) are means.

    `test` is "McNemar, exact" or "permutation"; `p` its value alone, `p_holm` corrected for all
    rows. `detectable` is the least true difference that this comparison finds with 80% power; None
    where the answers never differ. `left_out` counts questions that only one of both was asked,
    `other_prompts` those that were put in other words or with other images. `noise` is how far
    apart seeds alone put the mean score of two trainings, where the ledger knows it.
    """

    benchmark: str
    shots: int
    questions: int
    units: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    test: str
    p: float
    p_holm: float
    detectable: float | None
    left_out: int
    other_prompts: int
    noise: float | None = None

    @property
    def name(self) -> str:
        """The row's name, `benchmark@shots`."""
        return f"{self.benchmark}@{self.shots}"

    @property
    def verdict(self) -> str:
        """What the row says of the second: better, worse, or that no difference was found."""
        if self.p_holm > 1 - LEVEL:
            return "no difference found"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Paired:
    """The comparison of two checkpoints, by benchmark. `skipped` says why some are not in it."""

    first: str
    second: str
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON-able mapping."""
        return {
            "first": self.first,
            "second": self.second,
            "level": LEVEL,
            "power": POWER,
            "corrected_for": len(self.rows),
            "rows": [asdict(row) | {"verdict": row.verdict} for row in self.rows],
            "skipped": dict(self.skipped),
        }


def compare_paired(
    store: Store, first: str, second: str, noise: Mapping[str, Spread] | None = None
) -> Paired:
    """Compare two runs, or two evaluations (`RUN:TASK`), question by question.

    A run means its final evaluation, or all its evaluations where it has no such task. `noise` is
    what the ledger knows, by metric (`benchmark/accuracy@shots` is looked up). Raises UserError
    where there are no records, or none of the same questions.
    """
    ours, theirs = _Evaluation(store, first), _Evaluation(store, second)
    shared = [key for key in ours.groups if key in theirs.groups]
    skipped = {
        f"{name}@{shots}": f"only in {side.name}"
        for side, other in ((ours, theirs), (theirs, ours))
        for name, shots in side.groups
        if (name, shots) not in other.groups
    }
    made: dict[str, dict[str, Any]] = {}
    for key in shared:
        name = f"{key[0]}@{key[1]}"
        found = _compared(ours, theirs, key)
        if isinstance(found, str):
            skipped[name] = found
        else:
            made[name] = found
    if not made:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UserError(
            f"{ours.name} and {theirs.name} have no scored question in common ({why}); evaluate "
            "both on the same benchmark"
        )
    corrected = holm({name: row["p"] for name, row in made.items()})
    rows = tuple(
        Row(
            **{key: value for key, value in row.items() if key != "error"},
            p_holm=corrected[name],
            detectable=minimum_detectable_effect(
                row["error"], level=LEVEL, power=POWER, comparisons=len(made)
            )
            if row["error"]
            else None,
            noise=_noise(noise or {}, row),
        )
        for name, row in made.items()
    )
    return Paired(ours.name, theirs.name, rows, skipped)


class _Evaluation:
    """The records of a run's evaluation, by benchmark and shots; blind and other controls aside."""

    def __init__(self, store: Store, text: str) -> None:
        run_text, _, task_name = text.partition(":")
        view = load_view(store, find_run(store, run_text))
        self.name = f"{view.run_id}:{task_name}" if task_name else view.run_id
        self.groups: dict[Key, list[dict[str, Any]]] = {}
        makers: dict[Key, str] = {}
        for task in _tasks(view, task_name):
            for row in _records(store, task):
                key = row["task"], row["shots"]
                if row["condition"] == SEEN:
                    if makers.setdefault(key, task.name) != task.name:
                        raise UserError(
                            f"run {view.run_id} has several evaluations of {key[0]}; name one of "
                            f"them: {view.run_id}:{makers[key]} or {view.run_id}:{task.name}"
                        )
                    self.groups.setdefault(key, []).append(row)

    def versions(self, key: Key) -> set[str]:
        return {row.get("version", "") for row in self.groups[key]}

    def scores(self, key: Key) -> dict[str, float] | None:
        """Return the score of each question, averaged over draws of demonstrations."""
        found: dict[str, list[float]] = {}
        for row in self.groups[key]:
            if row["score"] is None:
                return None
            found.setdefault(row["key"], []).append(row["score"])
        return {name: math.fsum(values) / len(values) for name, values in found.items()}

    def prompts(self, key: Key) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for row in self.groups[key]:
            found.setdefault(row["key"], []).append(row["prompt_digest"])
        return found

    def units(self, key: Key) -> dict[str, str]:
        return {row["key"]: row.get("unit") or row["key"] for row in self.groups[key]}


def _tasks(view: RunView, name: str) -> list[TaskView]:
    """Return the tasks whose records count. Raises UserError when there are none."""
    if name:
        chosen = [find_task(view, name)]
    else:
        final = view.task(FINAL_EVALUATION)
        chosen = [final] if final is not None else list(view.tasks)
    found = [task for task in chosen if _results(task)]
    if not found:
        what = f"task {name} of run {view.run_id}" if name else f"run {view.run_id}"
        others = [task.name for task in view.tasks if _results(task)]
        fix = (
            f"name one that has: {view.run_id}:{others[0]}"
            if others
            else "finish an evaluation of it first"
        )
        raise UserError(f"{what} has no records of an evaluation; {fix}")
    return found


def _results(task: TaskView) -> str | None:
    return next((made["sha256"] for made in task.artifacts if made["name"] == RESULTS), None)


def _records(store: Store, task: TaskView) -> Iterable[dict[str, Any]]:
    """Yield the records of a task. Raises NotFound, Damaged, and UserError for other content."""
    ref = ref_of(store, _results(task) or "")
    text = read_file(store, ref, RECORDS).decode("utf-8")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            _ = row["key"], row["task"], row["shots"], row["condition"], row["score"]
            yield row
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{ref.uri}/{RECORDS}:{number}: is not a record of an evaluation"
            ) from None


def _noise(noise: Mapping[str, Spread], row: Mapping[str, Any]) -> float | None:
    spread = noise.get(f"{row['benchmark']}/accuracy@{row['shots']}")
    return None if spread is None else spread.difference()


def _compared(ours: _Evaluation, theirs: _Evaluation, key: Key) -> dict[str, Any] | str:
    """Return a row's values with the `error` of its difference, or why there is no row."""
    versions = ours.versions(key), theirs.versions(key)
    if versions[0] != versions[1]:
        both = " and ".join(", ".join(sorted(found)) or "none" for found in versions)
        return f"asked by different versions of the benchmark ({both}); evaluate both again"
    first, second = ours.scores(key), theirs.scores(key)
    if first is None or second is None:
        return "scores are not known here (the answers are not public, or a judge is missing)"
    keys = [name for name in first if name in second]
    if not keys:
        return "asked of different questions"
    units = [ours.units(key)[name] for name in keys]
    a, b = [first[name] for name in keys], [second[name] for name in keys]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    prompts = ours.prompts(key), theirs.prompts(key)
    interval = unit_interval(differences, units, level=LEVEL)
    test, p = _test(a, b, units)
    return {
        "benchmark": key[0],
        "shots": key[1],
        "questions": len(keys),
        "units": len(set(units)),
        "first": math.fsum(a) / len(a),
        "second": math.fsum(b) / len(b),
        "difference": interval["mean"],
        "low": interval["low"],
        "high": interval["high"],
        "test": test,
        "p": p,
        "left_out": len(first) + len(second) - 2 * len(keys),
        "other_prompts": sum(prompts[0][name] != prompts[1][name] for name in keys),
        "error": unit_error(differences, units),
    }


def _test(
    first: Sequence[float], second: Sequence[float], units: Sequence[str]
) -> tuple[str, float]:
    """Test by McNemar where scores are 0 or 1 and questions stand alone, else by permutation."""
    whole = all(score in (0, 1) for scores in (first, second) for score in scores)
    if whole and len(set(units)) == len(units):
        return "McNemar, exact", mcnemar(first, second)
    differences = [b - a for a, b in zip(first, second, strict=True)]
    return "permutation", permutation(unit_sums(differences, units)[:, 0].tolist())
