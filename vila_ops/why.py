"""Why a task ran, or from where its result came, by the parts of its cache key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.runtime.record import Attempt, RunRecord
from vila_core.store import Store
from vila_ops.compare import flatten
from vila_ops.run_index import RunIndex
from vila_ops.runs import find_task, load_view

MOST_RUNS = 50
"""How many earlier runs are looked at."""


@dataclass(frozen=True)
class Difference:
    """One part of the key that differs: `config sft.lr`, `input data`, `code vila_core/x.py`, …"""

    part: str
    name: str
    before: Any
    after: Any

    def text(self) -> str:
        """Return the difference as one line."""
        if self.part == "code":
            verb = "changed"
            if self.before is None or self.after is None:
                verb = "added" if self.before is None else "removed"
            return f"code: {self.name} was {verb}"
        before, after = (_short(value) for value in (self.before, self.after))
        return f"{' '.join([self.part, self.name]).strip()}: {before} -> {after}"


@dataclass(frozen=True)
class Reason:
    """The answer of `vila why`."""

    task: str
    verdict: str
    compared_with: str | None = None
    differences: tuple[Difference, ...] = ()
    key: str = ""
    notes: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """Return the answer as lines."""
        lines = [f"{self.task}: {self.verdict}"]
        lines += [f"  {difference.text()}" for difference in self.differences]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the answer as a JSON-able mapping."""
        return {
            "task": self.task,
            "verdict": self.verdict,
            "compared_with": self.compared_with,
            "key": self.key,
            "differences": [vars(difference) for difference in self.differences],
        }


def explain(store: Store, run_id: str, task: str) -> Reason:
    """Say why the latest attempt of a task ran, or where its result came from.

    Raises UserError for an unknown task.
    """
    name = find_task(load_view(store, run_id), task).name
    attempts = RunRecord.load(store, run_id).tasks.get(name, ())
    if not attempts:
        return Reason(name, "has not run: what it needs is not there")
    last = attempts[-1]
    key, parts = last.started.get("key"), last.started.get("key_parts")
    if not key or parts is None:
        return Reason(name, "ended before its key was known; see its log")
    source = (last.finished or {}).get("cached_from")
    if source:
        origin = f"run {source['run_id']}"
        if source["task"] != name:
            origin = f"task {source['task']} of {origin}"
        verdict = f"came from the cache: {origin} had the same config, inputs and code"
        return Reason(name, verdict, source["run_id"], key=key)
    again = [attempt for attempt in attempts[:-1] if attempt.started.get("key") == key]
    if again:
        verdict = f"ran again (attempt {last.number}): attempt {again[-1].number} {_end(again[-1])}"
        return Reason(name, verdict, run_id, key=key)
    return _against_earlier(store, run_id, name, last)


def _against_earlier(store: Store, run_id: str, name: str, last: Attempt) -> Reason:
    """Compare with the earlier attempt, in any run, whose key differs in the fewest parts."""
    key, parts = last.started["key"], last.started["key_parts"]
    nearest: tuple[str, list[Difference]] | None = None
    for other, attempt in _earlier(store, name, last.started["started_at"]):
        if attempt.started["key"] == key:
            ended = _end(attempt)
            done = (attempt.finished or {}).get("status") in ("succeeded", "cached")
            why = "its result is gone or damaged" if done else f"it {ended}"
            return Reason(name, f"ran: run {other} had the same key, but {why}", other, key=key)
        found = key_differences(attempt.started["key_parts"], parts)
        if nearest is None or len(found) < len(nearest[1]):
            nearest = (other, found)
    if nearest is None:
        return Reason(name, "ran: no earlier run in this store has this task", key=key)
    other, found = nearest
    notes = _input_notes(store, run_id, name, found)
    verdict = f"ran: compared with the nearest earlier run {other}, its key differs in"
    return Reason(name, verdict, other, tuple(found), key, notes)


def _earlier(store: Store, name: str, before: str) -> Iterator[tuple[str, Attempt]]:
    """Yield the attempts at a task that began before, newest run first."""
    for run_id in RunIndex(store).ids()[:MOST_RUNS]:
        for attempt in reversed(RunRecord.load(store, run_id).tasks.get(name, ())):
            if attempt.started.get("key") and attempt.started["started_at"] < before:
                yield run_id, attempt


def _input_notes(
    store: Store, run_id: str, name: str, found: Sequence[Difference]
) -> tuple[str, ...]:
    """Point from a changed input to the task that made it."""
    changed = {difference.after for difference in found if difference.part == "input"}
    return tuple(
        f"that input is made by task {task.name}: vila why {run_id} {task.name}"
        for task in load_view(store, run_id).tasks
        if task.name != name and any(made["sha256"] in changed for made in task.artifacts)
    )


def _end(attempt: Attempt) -> str:
    status = (attempt.finished or {}).get("status")
    if status is None:
        return "was killed"
    return "was stopped" if status == "stopped" else str(status)


def key_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Compare the `key_parts` of two attempts at a task, part by part."""
    found: list[Difference] = []
    config_before, config_after = (flatten(parts.get("config") or {}) for parts in (before, after))
    found += _changes("config", config_before, config_after)
    found += _changes("input", before.get("inputs") or {}, after.get("inputs") or {})
    found += _changes("outside", before.get("outside") or {}, after.get("outside") or {})
    code_before, code_after = (parts.get("code") or {} for parts in (before, after))
    if code_before.get("digest") != code_after.get("digest"):
        found += _changes("code", code_before.get("files") or {}, code_after.get("files") or {})
    for part in ("stage", "lock"):
        if before.get(part) != after.get(part):
            name = "file of pinned packages" if part == "lock" else ""
            found.append(Difference(part, name, before.get(part), after.get(part)))
    return found


def _changes(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(part, name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _short(value: Any) -> str:
    text = "not there" if value is None else str(value)
    is_digest = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:12] if is_digest else text
