"""The index of runs: thousands are listed without reading thousands of records.

    index/runs-2.jsonl.gz    a line per run: its row, and what proves that the row still holds

The index is a cache that only readers write. Whoever creates, drives, resumes or deletes a run
knows nothing of it, so it makes no difference which machine does that, or which version of this
code. It may be deleted at any time: the next listing makes it again.

What a listing returns is what reading every record would have returned at that time:

1. Which runs there are is always asked of the store itself. An unknown run's record is read.
2. What never changes once `run.json` is there (name, recipe, start) is taken from the index.
3. A status is taken from the index only with a proof, obtained in this very listing:
   - a run that ended as succeeded never changes again (`vila resume` refuses it);
   - a run that failed or was stopped changes only by a resume, which removes `end.json`, and the
     next end writes another one: it is unchanged while the etag of `end.json` is the same;
   - a run without `end.json` that does not run (its driver died without a word, or nobody has asked
     its cluster yet) is unchanged while nothing in its record is: names and etags; in a directory
     names, times and sizes. Where its driver ran on this very machine, only a judgement that was
     made here counts: elsewhere nobody can ask for the process.
   - a run that was running is read again, always.
   Rows that are not part of the answer are not proven, and their status is not used for it.
4. Every proof is taken before the record that it stands for is read: a change in between makes the
   proof fail next time, never a wrong row pass.
5. The index is replaced as a whole by compare-and-swap. Losing that race loses work, not truth.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import platform
import sys
import zlib
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from components.runtime.record import RunRecord
from vila_core.errors import Conflict, NotFound, StoreError
from vila_core.jsonio import digest, dumps
from vila_core.store import Store
from vila_ops.view import RunView, make_view

KEY = "index/runs-2.jsonl.gz"
"""The number is the format's: versions of this code with another format keep another index."""
STATUSES = ("running", "succeeded", "failed", "stopped", "interrupted")
"""What a run's status may be."""
WORTH_WRITING = 8
"""With fewer news than this, reading them again next time costs less than writing the index."""
REMOTE_THREADS = 8
CHUNK_RUNS = 1000
MOST_SETS = 1000
"""So many different sets of metrics are remembered for others to share."""

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  # what foreign JSON leads to

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Metrics(Mapping[str, float]):
    """Metrics of a run. Runs with the same metrics share their names: there are many runs."""

    __slots__ = ("_places", "_values")
    _known: ClassVar[dict[tuple[str, ...], dict[str, int]]] = {}

    def __init__(self, values: Mapping[str, float]) -> None:
        names = tuple(values)
        places = self._known.get(names)
        if places is None:
            places = {sys.intern(name): place for place, name in enumerate(names)}
            if len(self._known) < MOST_SETS:
                self._known[names] = places
        self._places = places
        self._values = array("d", values.values())

    def __getitem__(self, name: str) -> float:
        return self._values[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task in a list of runs."""

    name: str
    stage: str
    status: str
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in a list of runs."""

    run_id: str
    name: str
    recipe: str
    runner: str
    status: str
    started_at: str
    duration_s: float | None
    code_digest: str
    error: str
    metrics: Mapping[str, float]
    data: Mapping[str, str]
    """Digest of each dataset that a task wrote, by task."""
    tasks: tuple[TaskRow, ...]

    @property
    def done(self) -> int:
        """How many of the tasks are done."""
        return sum(task.status in ("succeeded", "cached") for task in self.tasks)

    def as_row(self) -> dict[str, Any]:
        """Return what `vila runs --json` lists."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "recipe": self.recipe,
            "runner": self.runner,
            "status": self.status,
            "started_at": self.started_at,
            "duration_s": self.duration_s,
            "code_digest": self.code_digest,
            "data_versions": dict(self.data),
            "metrics": dict(self.metrics),
            "error": self.error or None,
        }


@dataclass(frozen=True)
class Listing:
    """Runs, newest first; of those that run, all that is known (`running`, by run id).

    `found` is how many runs the question meant before `limit` cut them. Records that can't be read
    are told with the reason, and are no reason to show nothing.
    """

    rows: tuple[RunRow, ...]
    found: int
    running: Mapping[str, RunView] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


class _Entry:
    """A row as the index holds it; made a `RunRow` when it is asked for, which most never are."""

    __slots__ = ("_row", "fields", "proof", "run_id")

    def __init__(self, run_id: str, fields: Mapping[str, Any], proof: Mapping[str, Any]) -> None:
        self.run_id = run_id
        self.fields = _shared(fields)
        self.proof = _FINAL if proof == _FINAL else proof  # empty: to be read again
        self._row: RunRow | None = None

    @property
    def row(self) -> RunRow:
        """The row."""
        if self._row is None:
            tasks = tuple(TaskRow(*task) for task in self.fields["tasks"])
            self._row = RunRow(self.run_id, **{**self.fields, "tasks": tasks})
        return self._row


_FIELDS = frozenset(RunRow.__dataclass_fields__) - {"run_id"}
_FINAL: Mapping[str, Any] = {"final": True}
_ALIKE = ("name", "recipe", "runner", "status", "code_digest")


def _shared(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, what many runs have alike held once. Raises TypeError, ValueError."""
    alike = {name: sys.intern(fields[name]) for name in _ALIKE}
    tasks = tuple(
        (sys.intern(name), sys.intern(stage), sys.intern(status), duration)
        for name, stage, status, duration in fields["tasks"]
    )
    return {**fields, **alike, "tasks": tasks, "metrics": Metrics(fields["metrics"])}


_Read = tuple[RunRow, Mapping[str, Any], RunView | None]
"""A row, its proof (empty where it has none), and the whole view of a run that runs."""


class RunIndex:
    """Lists the runs of a store. Keep it to list again cheaply; it is not for several threads."""

    def __init__(self, store: Store, say: Callable[[str], None] = lambda text: None) -> None:
        """Use a store; `say` is told when there is much to read."""
        self._store = store
        self._say = say
        self._entries: dict[str, _Entry] = {}
        self._tag: str | None = None
        self._opened = False
        self._news = 0
        self._unreadable: dict[str, str] = {}
        self._fresh: set[str] = set()  # read since the last `_meet`
        self._running: dict[str, RunView] = {}

    def ids(self) -> list[str]:
        """Return the ids of all runs, newest first. Raises StoreError."""
        self._meet()
        self.write()
        return [entry.run_id for entry in self._sorted()]

    def list(
        self, *, limit: int | None = None, statuses: Container[str] | None = None, name: str = ""
    ) -> Listing:
        """Return the newest `limit` runs whose name, recipe or id holds `name`. Raises StoreError.

        `statuses` leaves out the runs that are in none of them. The index is not written: `write`
        does that, so that an answer can be shown first.
        """
        self._meet()
        name = name.casefold()
        meant = [
            entry.run_id
            for entry in self._sorted()
            if not name or name in f"{entry.run_id}\n{entry.fields['recipe']}".casefold()
        ]
        if statuses is None:
            found, chosen = len(meant), self._proven(meant[:limit])
        else:
            rows = [row for row in self._proven(meant) if row.status in statuses]
            found, chosen = len(rows), rows[:limit]
        ids = {row.run_id for row in chosen}
        running = {run_id: view for run_id, view in self._running.items() if run_id in ids}
        return Listing(tuple(chosen), found, running, dict(self._unreadable))

    def write(self) -> None:
        """Replace the index in the store, if there is enough news; never fails for it."""
        if self._news < WORTH_WRITING:
            return
        data = _packed(self._entries.values())
        # A store that may only be read is listed slowly, but it is listed.
        with contextlib.suppress(StoreError):
            try:
                self._tag = self._store.swap(KEY, data, expected=self._tag)
            except Conflict:  # somebody else's is as good; what we know replaces it next time
                self._tag = self._store.etag(KEY)
                return
        self._news = 0

    def _sorted(self) -> list[_Entry]:
        def age(entry: _Entry) -> tuple[str, str]:
            return entry.fields["started_at"], entry.run_id

        return sorted(self._entries.values(), key=age, reverse=True)

    def _meet(self) -> None:
        """Learn which runs there are, and read those that nobody has read before."""
        self._fresh, self._running, self._unreadable = set(), {}, {}
        if self._opened:
            present = self._store.children("runs")
        else:
            with ThreadPoolExecutor(1) as aside:
                asked = aside.submit(self._store.children, "runs")
                self._open()
                present = asked.result()
        known = set(present)
        for run_id in [run_id for run_id in self._entries if run_id not in known]:
            del self._entries[run_id]
            self._news += 1
        unknown = [run_id for run_id in present if run_id not in self._entries]
        if len(unknown) >= 500:
            self._say(f"reading {len(unknown):,} runs for the index; later listings need not")
        for start in range(0, len(unknown), CHUNK_RUNS):
            self._read(unknown[start : start + CHUNK_RUNS])
            if start:
                self.write()  # what is interrupted here need not begin again

    def _open(self) -> None:
        self._tag = self._store.etag(KEY)
        if self._tag is not None:
            try:
                self._entries = _unpacked(self._store.read(KEY))
            except (NotFound, *_MALFORMED, OSError, EOFError, zlib.error):
                self._entries = {}  # deleted just now, or not ours: it is made again
        self._opened = True

    def _proven(self, wanted: list[str]) -> list[RunRow]:
        """Return rows whose status was proven, or read, since the last `_meet`."""
        doubtful = [
            run_id
            for run_id in wanted
            if run_id not in self._fresh and not self._entries[run_id].proof.get("final")
        ]
        holds = side_by_side(self._store, self._holds, doubtful)
        self._read([run_id for run_id, held in zip(doubtful, holds, strict=True) if not held])
        return [self._entries[run_id].row for run_id in wanted if run_id in self._entries]

    def _holds(self, run_id: str) -> bool:
        proof = self._entries[run_id].proof
        if "end" in proof:
            return self._store.etag(f"runs/{run_id}/end.json") == proof["end"]
        if "unchanged" in proof:
            here = platform.node()
            judged = proof["judged_on"] == here or proof["driver_on"] != here
            return judged and record_fingerprint(self._store, run_id) == proof["unchanged"]
        return False

    def _read(self, run_ids: list[str]) -> None:
        """Read records anew; what is no run leaves the index."""
        for run_id, read in zip(
            run_ids, side_by_side(self._store, self._read_one, run_ids), strict=True
        ):
            self._entries.pop(run_id, None)
            if isinstance(read, str):
                self._unreadable[run_id] = read
            elif read is not None:
                row, proof, running = read
                self._entries[run_id] = _Entry(run_id, _fields(row), proof)
                self._fresh.add(run_id)
                self._news += bool(proof)
                if running is not None:
                    self._running[run_id] = running

    def _read_one(self, run_id: str) -> _Read | str | None:
        """Return what a record says; why it can't be read; None where is no run."""
        try:
            end = self._store.etag(f"runs/{run_id}/end.json")
            # Of a run that did not end, everything may count; of others nothing more is asked.
            whole = record_fingerprint(self._store, run_id) if end is None else None
            record = RunRecord.load(self._store, run_id)
            view = make_view(record)
            row = _row(view)
        except NotFound:
            return None
        except _MALFORMED as error:
            return f"{type(error).__name__}: {error}"
        if view.status == "running":
            return row, {}, view
        if record.end is not None:
            final = view.status == "succeeded"
            return row, {"final": True} if final else {"end": end} if end else {}, None
        driver = (record.driver or {}).get("host")
        proof = {"unchanged": whole, "judged_on": platform.node(), "driver_on": driver}
        return row, proof if whole else {}, None


def record_fingerprint(store: Store, run_id: str) -> str:
    """Return what stays the same exactly while nothing in a run's record changes."""
    folder = store.local_path(f"runs/{run_id}")
    if folder is None:
        return digest(list(store.etags(f"runs/{run_id}/")))
    found = []
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            with contextlib.suppress(FileNotFoundError):  # being written, or just replaced
                seen = os.stat(path)
                found.append([path, seen.st_mtime_ns, seen.st_size, seen.st_ino])
    return digest(sorted(found))


def side_by_side(
    store: Store, ask: Callable[[Item], Answer], items: list[Item]
) -> Sequence[Answer]:
    """Return the answers in order; a remote store is asked for several at a time."""
    if store.local_path("") is not None or len(items) < 2:
        return [ask(item) for item in items]
    with ThreadPoolExecutor(REMOTE_THREADS) as threads:
        return list(threads.map(ask, items))


def _row(view: RunView) -> RunRow:
    """Make the row. Raises ValueError or TypeError for values that no record of ours holds."""
    if view.status not in STATUSES:
        raise ValueError(f"'{view.status}' is no status of a run")
    return RunRow(
        run_id=view.run_id,
        name=_text(view.name),
        recipe=_text(view.recipe),
        runner=_text(view.runner),
        status=view.status,
        started_at=_text(view.started_at),
        duration_s=finite(view.duration_s),
        code_digest=_text(view.code_digest),
        error=_text(view.error),
        metrics={
            _text(name): number
            for name, value in view.metrics.items()
            if (number := finite(value)) is not None
        },
        data={_text(task): _text(digest) for task, digest in view.data_versions.items()},
        tasks=tuple(
            TaskRow(_text(task.name), _text(task.stage), task.status, finite(task.duration_s))
            for task in view.tasks
        ),
    )


def finite(value: object) -> float | None:
    """Return a finite number as such, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is needed, found {type(value).__name__}")
    value.encode()  # half of a surrogate pair is no text
    return value


def _fields(row: RunRow) -> dict[str, Any]:
    tasks = [(one.name, one.stage, one.status, one.duration_s) for one in row.tasks]
    return {name: getattr(row, name) for name in _FIELDS} | {"tasks": tasks}


def _packed(entries: Iterable[_Entry]) -> bytes:
    """Return the index, made line by line: all of it at once would be large."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as file:
        for one in entries:
            if one.proof:
                line = {**one.fields, "metrics": dict(one.fields["metrics"])}
                file.write(dumps({**line, "run_id": one.run_id, "proof": one.proof}).encode())
                file.write(b"\n")
    return out.getvalue()


def _unpacked(data: bytes) -> dict[str, _Entry]:
    """Return the entries. Raises what foreign values lead to."""
    entries = {}
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        for line in file:
            fields = json.loads(line)
            run_id, proof = fields.pop("run_id"), fields.pop("proof")
            if fields.keys() != _FIELDS:
                raise ValueError(f"{run_id}: not a row of this format")
            entries[run_id] = _Entry(run_id, fields, proof)
    return entries
