"""The run record: what a run is, what each attempt of each task did. Written by who does it.

    runs/<run_id>/run.json driver.json end.json
    runs/<run_id>/cluster.json findings.json  (of a run on a cluster)
    runs/<run_id>/tasks/<task>/<attempt>/{started,progress,finished}.json metrics.jsonl log.txt

Values are JSON; times are ISO 8601 in UTC. `finished.json` is create-only: the first who knows how
an attempt ended (the task itself, else its driver) writes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from components.runtime.secrets import mask, mask_text
from vila_core.errors import AlreadyExists, Conflict, NotFound, UserError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_core.store.base import RESERVED

ALIVE_SECONDS = 60.0
"""A sign of life this young proves that something still works where no process can be asked."""
QUIET_SECONDS = 600.0
"""Of a run on a cluster: longer silence while a task is at work means that its pod is lost."""
RESERVE_BYTES = 1 << 16
"""Space that an attempt keeps on the disk for its last words."""


def now() -> str:
    """Return the time as records hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ---- writing: the run -------------------------------------------------------------------------


def create_run(store: Store, run: Mapping[str, Any]) -> None:
    """Write `run.json` of a new run; `run["run_id"]` names it. Raises AlreadyExists."""
    value = {"created_at": now(), **run}
    store.write(f"runs/{run['run_id']}/run.json", _json(value), create_only=True)


def begin_driver(store: Store, run_id: str) -> None:
    """Make this process the run's driver. Raises UserError while another one lives."""
    place = f"runs/{run_id}/driver.json"
    tag = store.etag(place)
    if tag is not None:
        driver = _read(store, place)
        if driver is not None and _alive(driver) and driver["pid"] != os.getpid():
            raise UserError(
                f"run {run_id} is being driven already, by process {driver['pid']} on "
                f"{driver['host']}; fix: wait for it, or 'vila stop {run_id}' first."
            )
    try:
        store.swap(place, _json(identity()), expected=tag)
    except Conflict:
        raise UserError(f"run {run_id}: another driver has just started.") from None
    store.delete(f"runs/{run_id}/end.json")


def begin_cluster(store: Store, run_id: str, cluster: str) -> None:
    """Write that a run is driven on a cluster from now on, after the attempts that there are."""
    names = store.children(f"runs/{run_id}/tasks")
    driver = {
        "cluster": cluster,
        "host": "",
        "pid": 0,
        "process_started": 0.0,
        "started_at": now(),
        "attempts": {name: last_attempt(store, run_id, name) for name in names},
    }
    store.write(f"runs/{run_id}/driver.json", _json(driver))
    store.delete(f"runs/{run_id}/end.json")


def end_run(store: Store, run_id: str, status: str, error: str | None = None) -> None:
    """Write `end.json`: status is succeeded, failed or stopped."""
    store.write(
        f"runs/{run_id}/end.json", _json({"status": status, "ended_at": now(), "error": error})
    )


def identity() -> dict[str, Any]:
    """Return what tells this process from every other: pid, start time (s), host; and the time."""
    return {
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "host": platform.node(),
        "started_at": now(),
    }


# ---- writing: an attempt ----------------------------------------------------------------------


class AttemptWriter:
    """One attempt of one task. `folder` takes log.txt, metrics.jsonl and the sinks' files.

    In a directory store that folder is the record itself; for a remote store it is a temporary one
    that `sync` uploads.
    """

    def __init__(self, store: Store, run_id: str, task: str, started: Mapping[str, Any]) -> None:
        self._store = store
        while True:
            self.number = last_attempt(store, run_id, task) + 1
            self.prefix = _attempt(run_id, task, self.number)
            value = {**identity(), **started, "attempt": self.number}
            try:
                store.write(f"{self.prefix}/started.json", _json(value), create_only=True)
                break
            except AlreadyExists:
                continue
        local = store.local_path(self.prefix)
        self._mirror = local is None
        self.folder = local or Path(tempfile.mkdtemp(prefix="vila-record-"))
        self._uploaded: dict[Path, tuple[int, int]] = {}
        self._reserve = self.folder / f"{RESERVED}reserve"
        self._reserve.write_bytes(bytes(RESERVE_BYTES))

    @property
    def remote(self) -> bool:
        """Whether every write goes over a network."""
        return self._mirror

    def progress(self, value: Mapping[str, Any]) -> None:
        """Write the heartbeat."""
        self._store.write(f"{self.prefix}/progress.json", _json({"at": now(), **value}))

    def free_reserve(self) -> None:
        """Give back the space that was set aside, so that a full disk can still be told of."""
        self._reserve.unlink(missing_ok=True)

    def finish(self, value: Mapping[str, Any]) -> bool:
        """Write how it ended; return False when somebody has already."""
        _fold_rows(self.folder)  # before: the reserve is for the last words alone
        self.free_reserve()
        self.sync()
        try:
            place = f"{self.prefix}/finished.json"
            self._store.write(place, _json({"ended_at": now(), **value}), create_only=True)
        except AlreadyExists:
            return False
        if self._mirror:
            shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def sync(self) -> None:
        """Upload what changed in `folder`, when the store is remote."""
        if not self._mirror:
            return
        for path in sorted(self.folder.rglob("*")):
            if path == self._reserve or path.is_symlink() or not path.is_file():
                continue
            with contextlib.suppress(FileNotFoundError):  # the sink may just have removed it
                status = path.stat()
                version = (status.st_mtime_ns, status.st_size)
                if self._uploaded.get(path) != version:
                    name = path.relative_to(self.folder).as_posix()
                    self._store.upload(f"{self.prefix}/{name}", path)
                    self._uploaded[path] = version


def last_attempt(store: Store, run_id: str, task: str) -> int:
    """Return the number of the latest attempt of a task, 0 when there is none."""
    names = store.children(f"runs/{run_id}/tasks/{task}")
    return max((int(name) for name in names if name.isdigit()), default=0)


def close_attempt(
    store: Store, run_id: str, task: str, *, after: int, exit_code: int, message: str, log: str = ""
) -> None:
    """Say how a task's process ended when it could not say so itself (killed, or never began).

    The driver calls it after every process that ended with an error: `after` is `last_attempt` from
    before the start, `log` what the process printed. An attempt that is finished stays as it is.
    """
    value = {
        "status": "stopped" if exit_code in (130, 143) else "failed",
        "exit_code": exit_code,
        "ended_at": now(),
        "duration_s": None,
        "outputs": {},
        "metrics": {},
        "error": {"kind": "ProcessEnded", "message": message},
        "cached_from": None,
    }
    number = last_attempt(store, run_id, task)
    if number <= after:
        writer = AttemptWriter(store, run_id, task, {"stage": None, "key": None, "key_parts": None})
        (writer.folder / "log.txt").write_text(mask_text(log), encoding="utf-8")
        writer.finish(value)
        return
    prefix = _attempt(run_id, task, number)
    if (folder := store.local_path(prefix)) is not None:
        _fold_rows(folder)
    with contextlib.suppress(AlreadyExists):
        place = f"{prefix}/finished.json"
        store.write(place, _json(value), create_only=True)


def _fold_rows(folder: Path) -> None:
    if (folder / "metrics.jsonl").exists():
        from components.runtime.folding import fold_rows  # numpy is loaded where it is needed

        fold_rows(folder)


# ---- reading ----------------------------------------------------------------------------------


def finished_attempt(store: Store, run_id: str, task: str) -> Attempt | None:
    """Return the latest attempt of a task if it has the task's result, else None."""
    number = last_attempt(store, run_id, task)
    attempt = _read_attempt(store, task, _attempt(run_id, task, number)) if number else None
    if attempt is None or (attempt.finished or {}).get("status") not in ("succeeded", "cached"):
        return None
    return attempt


@dataclass(frozen=True)
class Attempt:
    """One attempt of a task as recorded. `finished` is None while it runs, or if it was killed."""

    task: str
    number: int
    prefix: str
    started: Mapping[str, Any]
    progress: Mapping[str, Any] = field(default_factory=dict)
    finished: Mapping[str, Any] | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """The task's resolved config. (What its key holds leaves out what changes no result.)"""
        parts = self.started.get("key_parts") or {}  # records of before had it only there
        return self.started.get("config") or parts.get("config") or {}

    @property
    def log_key(self) -> str:
        """The store key of the log."""
        return f"{self.prefix}/log.txt"

    def log(self, store: Store) -> str:
        """Return the log so far."""
        try:
            return store.read(self.log_key).decode("utf-8", errors="replace")
        except NotFound:
            return ""

    def metrics(self, store: Store) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; a last line cut off by a crash is left out."""
        try:
            lines = store.read(f"{self.prefix}/metrics.jsonl").decode().splitlines(keepends=True)
        except NotFound:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]


@dataclass(frozen=True)
class RunRecord:
    """Everything recorded about a run."""

    run_id: str
    run: Mapping[str, Any]
    driver: Mapping[str, Any] | None
    end: Mapping[str, Any] | None
    tasks: Mapping[str, tuple[Attempt, ...]]

    @classmethod
    def load(cls, store: Store, run_id: str) -> RunRecord:
        """Read a run. Raises NotFound."""
        run = _read(store, f"runs/{run_id}/run.json")
        if run is None:
            raise NotFound(f"there is no run '{run_id}' in {store.uri}.")
        driver = _read(store, f"runs/{run_id}/driver.json")
        end = _read(store, f"runs/{run_id}/end.json")
        return cls(run_id, run, driver, end, _tasks(store, run_id))

    @property
    def status(self) -> str:
        """running, succeeded, failed, stopped, or interrupted: its driver died without a word."""
        if self.end is not None:
            return self.end["status"]
        if self.run.get("runner") == "cluster":
            return self._status_on_cluster()
        if self.driver is not None and self.driver["host"] == platform.node():
            return "running" if _alive(self.driver) else "interrupted"
        return "running" if _recent(self._signs()) else "interrupted"

    @property
    def last_heard(self) -> str | None:
        """When the run or one of its tasks last gave a sign of life."""
        return max((sign for sign in self._signs() if sign is not None), default=None)

    def earlier(self, attempt: Attempt) -> bool:
        """Return whether an attempt is of before the run was last started or resumed."""
        driver = self.driver or {}
        if "attempts" in driver:  # a cluster's clock may differ from the submitting machine's
            return attempt.number <= driver["attempts"].get(attempt.task, 0)
        return attempt.started["started_at"] < driver.get("started_at", "")

    def _status_on_cluster(self) -> str:
        """Return what the record alone tells, while nobody has asked the cluster.

        Tasks wait there, for each other, a queue or a node; only one that was at work is missed.
        """
        latest = [attempts[-1] for attempts in self.tasks.values() if attempts]
        ended = {attempt.task: attempt.finished["status"] for attempt in latest if attempt.finished}
        names = [name for name, _ in self.run.get("tasks", ())]
        if names and all(ended.get(name) in ("succeeded", "cached") for name in names):
            return "succeeded"
        if _recent(self._signs(), QUIET_SECONDS):
            return "running"
        now_here = [attempt for attempt in latest if not self.earlier(attempt)]
        if any(ended.get(attempt.task) == "failed" for attempt in now_here):
            return "failed"
        return "interrupted" if any(not attempt.finished for attempt in now_here) else "running"

    def _signs(self) -> list[str | None]:
        signs = [self.run.get("created_at"), (self.driver or {}).get("started_at")]
        for attempts in self.tasks.values():
            signs += [_last_sign(attempt) for attempt in attempts[-1:]]
        return signs

    def task_status(self, task: str) -> str:
        """waiting, running, succeeded, cached, failed, stopped or interrupted."""
        attempts = self.tasks.get(task, ())
        if not attempts:
            return "waiting"
        finished = attempts[-1].finished
        if finished is not None:
            return finished["status"]
        return "running" if self.status == "running" else "interrupted"

    def metrics(self, store: Store, task: str) -> list[dict[str, Any]]:
        """Return the metrics rows of all attempts by step; a later attempt's row wins."""
        rows: dict[int, dict[str, Any]] = {}
        for attempt in self.tasks.get(task, ()):
            rows.update((row["step"], row) for row in attempt.metrics(store))
        return [rows[step] for step in sorted(rows)]


def _tasks(store: Store, run_id: str) -> dict[str, tuple[Attempt, ...]]:
    """Read the attempts of all tasks: one listing tells which there are, however many tasks."""
    lead = f"runs/{run_id}/tasks/"
    places = {tuple(key.removeprefix(lead).split("/")[:2]) for key in store.list(lead)}
    found: dict[str, list[Attempt]] = {}
    for name, number in sorted(place for place in places if len(place) == 2):
        attempt = _read_attempt(store, name, f"{lead}{name}/{number}")
        if attempt is not None:
            found.setdefault(name, []).append(attempt)
    return {name: tuple(attempts) for name, attempts in found.items()}


def _read_attempt(store: Store, task: str, prefix: str) -> Attempt | None:
    started = _read(store, f"{prefix}/started.json")
    if started is None:
        return None
    finished = _read(store, f"{prefix}/finished.json")
    progress = _read(store, f"{prefix}/progress.json") or {}
    number = int(prefix.rpartition("/")[2])
    return Attempt(task, number, prefix, started, progress, finished)


def _last_sign(attempt: Attempt) -> str | None:
    ended = (attempt.finished or {}).get("ended_at")
    return ended or attempt.progress.get("at") or attempt.started.get("started_at")


def _recent(signs: Iterable[str | None], seconds: float = ALIVE_SECONDS) -> bool:
    oldest = datetime.now(UTC) - timedelta(seconds=seconds)
    return any(sign is not None and datetime.fromisoformat(sign) > oldest for sign in signs)


def _alive(process: Mapping[str, Any]) -> bool:
    """Return whether the recorded process still runs; pids are used again, start times are not."""
    if process["host"] != platform.node():
        return _recent([process.get("started_at")])
    try:
        found = psutil.Process(process["pid"])
        same = abs(found.create_time() - process["process_started"]) < 1.0
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _attempt(run_id: str, task: str, number: int) -> str:
    return f"runs/{run_id}/tasks/{task}/{number:03d}"


def _read(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return json.loads(store.read(key))
    except NotFound:
        return None


def _json(value: Mapping[str, Any]) -> bytes:
    return (dumps(mask(value), indent=1) + "\n").encode()
