"""What a grid costs: CPU seconds and time of every task, also of those that came from the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.runtime.record import Attempt, RunRecord
from vila_core.errors import NotFound
from vila_core.store import Store


@dataclass(frozen=True)
class Cost:
    """Tasks of one kind together. `computed` of them ran in this run, the others were cached."""

    kind: str
    tasks: int
    computed: int
    cpu_s: float
    task_s: float  # of all tasks, one after the other


def costs(store: Store, record: RunRecord) -> list[Cost]:
    """Return the cost by stage, in the order of the run's tasks.

    A cached result costs what it cost the run that computed it; where that is gone, nothing.
    """
    earlier: dict[str, RunRecord] = {}
    found: dict[str, list[tuple[bool, Mapping[str, Any]]]] = {}
    for name, stage in record.run["tasks"]:
        attempts = record.tasks.get(name, ())
        source = (attempts[-1].finished or {}).get("cached_from") if attempts else None
        if source:
            run_id = source["run_id"]
            if run_id not in earlier:
                earlier[run_id] = _load(store, run_id)
            attempts = earlier[run_id].tasks.get(source["task"], ())
        found.setdefault(stage, []).append((not source, _used(attempts)))
    return [
        Cost(
            stage,
            len(parts),
            sum(computed for computed, _ in parts),
            sum(used["cpu_s"] for _, used in parts),
            sum(used["duration_s"] for _, used in parts),
        )
        for stage, parts in found.items()
    ]


def wall_seconds(record: RunRecord) -> float:
    """Return the time in which tasks of the run were running: waiting for a resume counts not."""
    spans = sorted(
        (attempt.started["started_at"], attempt.finished["ended_at"])
        for attempts in record.tasks.values()
        for attempt in attempts
        if attempt.finished is not None
    )
    total, until = 0.0, datetime.min.replace(tzinfo=UTC)
    for begin, end in spans:
        first, last = (datetime.fromisoformat(time) for time in (begin, end))
        total += max((last - max(first, until)).total_seconds(), 0.0)
        until = max(until, last)
    return total


def _load(store: Store, run_id: str) -> RunRecord:
    try:
        return RunRecord.load(store, run_id)
    except NotFound:
        return RunRecord(run_id, {}, None, None, {})


def _used(attempts: Iterable[Attempt]) -> dict[str, float]:
    """Return what the attempts of a task used: an interrupted one counts too."""
    used = {"cpu_s": 0.0, "duration_s": 0.0}
    for attempt in attempts:
        for key in used:
            used[key] += (attempt.finished or {}).get(key) or 0.0
    return used
