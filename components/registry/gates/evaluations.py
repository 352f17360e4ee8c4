"""Which evaluations of the same weights count: a model's own first, then what was asked later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.runtime.record import RunRecord
from vila_core.errors import Damaged, NotFound
from vila_core.jsonio import digest
from vila_core.store import Store, read_file, ref_of

Key = tuple[str, int]
"""Benchmark (or task of an evaluation set) and number of shots."""

_ASKED = (
    *("benchmark", "version", "split", "questions", "subjects", "files", "prompt", "layout", "ocr"),
    *("decoding", "max_new_tokens", "demonstrations", "normalisation"),
)
"""What a summary says of how was asked; of the model and of what it answered it says more."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a model: its artifact (sha256), and the task that made it, if known.

    `keys` are what it has scores of, as its summary says. `whole` is False where only the first
    questions of a benchmark were asked. `how` is the same where the same was asked in the same way.
    """

    results: str
    run_id: str
    task: str = ""
    ended_at: str = ""  # ISO 8601, UTC
    keys: frozenset[Key] = frozenset()
    whole: bool = True
    how: str = ""

    @property
    def name(self) -> str:
        """`RUN:TASK`."""
        return f"{self.run_id}:{self.task}" if self.task else self.run_id


@dataclass(frozen=True)
class Known:
    """All evaluations of one model: `own` has what its own records were read from, by key."""

    own: Mapping[Key, Evaluation]
    others: Sequence[Evaluation] = ()

    def of(self, key: Key) -> list[Evaluation]:
        """Return those that count for a benchmark, the first to end first."""
        if key in self.own:
            return [self.own[key]]
        found = [one for one in self.others if one.whole and key in one.keys]
        return sorted(found, key=lambda one: (one.ended_at, one.results))

    @property
    def keys(self) -> Iterator[Key]:
        """All that there are scores of, its own first."""
        yield from dict.fromkeys([*self.own, *(key for one in self.others for key in one.keys)])


@dataclass(frozen=True)
class Chosen:
    """By key, the evaluation of each side whose records are compared."""

    ours: dict[Key, Evaluation] = field(default_factory=dict)
    theirs: dict[Key, Evaluation] = field(default_factory=dict)


def choose(ours: Known, theirs: Known, named: Iterable[str]) -> Chosen:
    """Return what to read: what both were asked, and what one was of the benchmarks `named`.

    The rule looks at no score: a model's own evaluation; else, of whole ones, those two that asked
    both models in the same way and were there first; else the first of each.
    """
    chosen, wanted = Chosen(), set(named)
    for key in dict.fromkeys([*theirs.keys, *ours.keys]):
        our, their = ours.of(key), theirs.of(key)
        if not (our and their) and key[0] not in wanted:
            continue
        alike = [(one, other) for one in our for other in their if one.how == other.how]
        if alike:
            pair = min(alike, key=lambda two: sorted((one.ended_at for one in two), reverse=True))
            our, their = [pair[0]], [pair[1]]
        if our:
            chosen.ours[key] = our[0]
        if their:
            chosen.theirs[key] = their[0]
    return chosen


def describe(
    store: Store,
    results: str,
    run_id: str,
    task: str = "",
    ended_at: str = "",
    inputs: Mapping[str, str] | None = None,
) -> Evaluation:
    """Return what an evaluation's summary says of it; `inputs` (sha256 by name) are its task's.

    One whose summary is gone or can't be read has no keys. Raises StoreError.
    """
    try:
        summary = json.loads(read_file(store, ref_of(store, results), "summary.json"))
        asked = {name: summary[name] for name in _ASKED if name in summary}
        questions = summary.get("questions") or {}
        whole = questions.get("asked", 0) >= questions.get("in_split", 0)
        keys = frozenset(_keys(summary["metrics"]))
    except (NotFound, Damaged, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Evaluation(results, run_id, task, ended_at)
    others = {name: sha256 for name, sha256 in (inputs or {}).items() if name != "model"}
    return Evaluation(results, run_id, task, ended_at, keys, whole, digest([asked, others]))


def own_evaluation(store: Store, results: str, run_id: str) -> Evaluation:
    """Return the evaluation of a model's own run, with the task if its record is there."""
    try:
        record = RunRecord.load(store, run_id)
    except NotFound:
        return describe(store, results, run_id)
    for attempts in record.tasks.values():
        for attempt in reversed(attempts):
            ended: Mapping[str, Any] = attempt.finished or {}
            made = [one["sha256"] for one in (ended.get("outputs") or {}).values()]
            if results in made:
                inputs = (attempt.started.get("key_parts") or {}).get("inputs") or {}
                at = str(ended.get("ended_at") or "")
                return describe(store, results, run_id, attempt.task, at, inputs)
    return describe(store, results, run_id)


def _keys(metrics: Mapping[str, object]) -> Iterator[Key]:
    """Yield what `task/metric@shots` are of; `task.type/…` are parts of a task."""
    for name in metrics:
        task, _, rest = name.partition("/")
        shots = rest.rpartition("@")[2]
        if "." not in task and rest.count("@") and shots.isdecimal():
            yield task, int(shots)
