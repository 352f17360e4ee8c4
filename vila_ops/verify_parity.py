"""`vila verify parity`: did two runs make the same artifacts, to the bit, task by task?

The witness that a runner changes nothing: the same recipe by two runners, in two stores, so that
neither answers the other from its cache. What came from a cache was not computed, so it proves
nothing, and the certificate says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.runtime.record import now
from vila_core.errors import NotFound, UserError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_core.store.artifacts import MANIFEST
from vila_ops.compare import flatten
from vila_ops.runs import load_view
from vila_ops.view import RunView

SHOWN = 3
"""Files that are named of an artifact that differs."""
_NO_SETTING = ("tracking.", "pipeline")


@dataclass(frozen=True)
class Compared:
    """One artifact of a task: its digest in both runs; None where a run has none."""

    task: str
    name: str
    ours: str | None
    theirs: str | None
    computed: bool  # by both runs, not taken from a cache
    files: tuple[str, ...] = ()  # that differ, where both are there

    @property
    def equal(self) -> bool:
        """Whether the bits are the same."""
        return self.ours is not None and self.ours == self.theirs

    def text(self) -> str:
        """Return what differs, in words."""
        place = f"{self.task}/{self.name}"
        if self.ours is None or self.theirs is None:
            return f"{place}: only the {'other' if self.ours is None else 'first'} run has it"
        more = f", and {len(self.files) - SHOWN} more" if len(self.files) > SHOWN else ""
        named = f": {', '.join(self.files[:SHOWN])}{more}" if self.files else ""
        return f"{place}: {self.ours[:12]} is not {self.theirs[:12]}{named}"


@dataclass(frozen=True)
class Certificate:
    """What was compared. Written to `runs/<id>/certificates/parity.json`."""

    run: RunView
    against: RunView
    against_store: str
    compared: tuple[Compared, ...]
    settings: tuple[str, ...]  # that differ, which may explain what does

    @property
    def equal(self) -> bool:
        """Whether all artifacts of all tasks are the same."""
        return all(each.equal for each in self.compared)

    def as_json(self) -> dict[str, Any]:
        """Return the certificate as it is stored."""
        runs = {
            name: {"run_id": run.run_id, "runner": run.runner, "code_digest": run.code_digest}
            for name, run in (("run", self.run), ("against", self.against))
        }
        return {
            "kind": "parity",
            "equal": self.equal,
            **runs,
            "against_store": self.against_store,
            "artifacts": [
                {
                    "task": each.task,
                    "name": each.name,
                    "equal": each.equal,
                    "computed": each.computed,
                    "sha256": each.ours,
                    "against": each.theirs,
                    "files": list(each.files),
                }
                for each in self.compared
            ],
            "settings": list(self.settings),
            "differences": [each.text() for each in self.compared if not each.equal],
            "made_at": now(),
        }

    def text(self) -> str:
        """Return the certificate as lines."""
        same = sum(each.equal for each in self.compared)
        tasks = len({each.task for each in self.compared})
        lines = [
            f"{self.run.run_id} ({self.run.runner}) and {self.against.run_id} "
            f"({self.against.runner}): {'equal to the bit' if self.equal else 'DIFFERENT'}: "
            f"{same} of {len(self.compared)} artifacts of {tasks} tasks"
        ]
        lines += [f"  set differently: {text}" for text in self.settings]
        lines += [f"  {each.text()}" for each in self.compared if not each.equal]
        cached = sorted({each.task for each in self.compared if not each.computed})
        if cached:
            lines.append(f"  from a cache, so no proof: {', '.join(cached)}")
        return "\n".join(lines)


def verify_parity(store: Store, run_id: str, other: Store, against: str) -> Certificate:
    """Compare the artifacts of two runs that succeeded, and store the certificate with the first.

    Raises UserError for a run that has not succeeded, a run and itself, and two runs of which no
    task was computed by both.
    """
    if store.uri == other.uri and run_id == against:
        raise UserError(f"run {run_id} is compared with itself; name another one by --against.")
    ours, theirs = _succeeded(store, run_id), _succeeded(other, against)
    compared = tuple(_compare(ours, theirs, store, other))
    if not any(each.computed for each in compared):
        raise UserError(
            f"no task of {run_id} and {against} was computed by both: what comes from a cache "
            "proves nothing.\n  fix: run the recipe again with a store of its own (--store)"
        )
    certificate = Certificate(ours, theirs, other.uri, compared, _settings(ours, theirs))
    place = f"runs/{run_id}/certificates/parity.json"
    store.write(place, (dumps(certificate.as_json(), indent=1) + "\n").encode())
    return certificate


def _succeeded(store: Store, run_id: str) -> RunView:
    view = load_view(store, run_id)
    if view.status != "succeeded":
        raise UserError(f"run {run_id} is {view.status}; only runs that succeeded are compared.")
    return view


def _compare(ours: RunView, theirs: RunView, store: Store, other: Store) -> Iterator[Compared]:
    mine, yours = _artifacts(ours), _artifacts(theirs)
    for place in [*mine, *(place for place in yours if place not in mine)]:
        task, name = place
        one, two = mine.get(place), yours.get(place)
        computed = not _cached(ours, task) and not _cached(theirs, task)
        files: tuple[str, ...] = ()
        if one is not None and two is not None and one != two:
            files = tuple(_files(store, one, other, two))
        yield Compared(task, name, one, two, computed, files)


def _artifacts(view: RunView) -> dict[tuple[str, str], str]:
    return {
        (task.name, artifact["name"]): artifact["sha256"]
        for task in view.tasks
        for artifact in task.artifacts
    }


def _cached(view: RunView, task: str) -> bool:
    found = view.task(task)
    return found is not None and found.cached


def _files(store: Store, one: str, other: Store, two: str) -> Iterator[str]:
    """Yield the files that differ between two artifacts, by their manifests."""
    mine, yours = _manifest(store, one), _manifest(other, two)
    for path in sorted(mine.keys() | yours.keys()):
        if mine.get(path) != yours.get(path):
            yield path


def _manifest(store: Store, sha256: str) -> Mapping[str, str]:
    try:
        found = json.loads(store.read(f"artifacts/{sha256}/{MANIFEST}"))
    except NotFound:  # removed since, or only its digest is known here
        return {}
    return {entry["path"]: entry["sha256"] for entry in found["files"]}


def _settings(ours: RunView, theirs: RunView) -> tuple[str, ...]:
    one, two = flatten(ours.config), flatten(theirs.config)
    named = (
        f"{key} ({one.get(key)} and {two.get(key)})"
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key) and not key.startswith(_NO_SETTING)
    )
    code = "the code" if ours.code_digest != theirs.code_digest else ""
    return tuple(filter(None, [code, *named]))
