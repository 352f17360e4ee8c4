"""Records of runs for pages: read anew when something in them changed, not at every question."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from components.runtime.record import RunRecord
from vila_core.errors import Damaged, NotFound, StoreError
from vila_core.store import Store
from vila_ops.comparing.pairs import Pairs
from vila_ops.run_index import STATUSES, record_fingerprint
from vila_ops.samples import Samples
from vila_ops.view import RunView, make_view
from vila_ops.web.parts import MALFORMED
from vila_ops.web.watch import Watch

REMOTE_SECONDS = 10.0
"""A record in a bucket is looked at again after so long."""
JUDGED_SECONDS = 2.0
MOST_HELD = 64


@dataclass(frozen=True)
class Loaded:
    """A run as it was read, and what is the same while nothing in its record changes."""

    record: RunRecord
    view: RunView
    version: str


class Records:
    """The records of a store. For several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: OrderedDict[str, tuple[Loaded, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._seen_root = False

    def load(self, run_id: str) -> Loaded:
        """Return a run. Raises NotFound, Damaged for a record that is none of ours, StoreError."""
        with self._lock:
            held = self._held.get(run_id)
        root = self._store.local_path("")
        if root is not None and root.is_dir():
            self._seen_root = True
        elif root is not None and self._seen_root:
            raise StoreError(f"{root}: the store's folder is not there; mount or restore it.")
        if held and root is None and time.monotonic() - held[1] < REMOTE_SECONDS:
            return held[0]
        try:
            version = record_fingerprint(self._store, run_id)
        except ValueError:  # no store key
            raise NotFound(f"'{run_id[:200]}' is no run's id.") from None
        if held and held[0].version == version and _holds(*held):
            return held[0]
        loaded = self._read(run_id, version)
        with self._lock:
            self._held[run_id] = (loaded, time.monotonic())
            self._held.move_to_end(run_id)
            while len(self._held) > MOST_HELD:
                self._held.popitem(last=False)
        return loaded

    def _read(self, run_id: str, version: str) -> Loaded:
        if "/" in run_id or "\0" in run_id or run_id in ("", ".", ".."):
            raise NotFound(f"'{run_id[:200]}' is no run's id.")
        try:
            record = RunRecord.load(self._store, run_id)
            return Loaded(record, _sound(make_view(record)), version)
        except MALFORMED as error:
            raise Damaged(
                f"runs/{run_id}: the record can't be read: {type(error).__name__}: {error}"
            ) from error


def _holds(loaded: Loaded, at: float) -> bool:
    """Return whether a record that did not change still says the same.

    A driver that dies leaves no trace: what runs is judged anew now and then.
    """
    return loaded.view.status != "running" or time.monotonic() - at < JUDGED_SECONDS


_TEXTS = ("name", "recipe", "runner", "started_at", "code_digest", "config_digest", "error")


def _sound(view: RunView) -> RunView:
    """Return the view. Raises TypeError or ValueError for values that no record of ours holds."""
    named = {name: getattr(view, name) for name in _TEXTS}
    named |= {f"a task's {name}": getattr(task, name) for task in view.tasks for name in _TASK}
    for name, value in named.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text but {type(value).__name__}")
    if not isinstance(view.config, Mapping):
        raise TypeError(f"the config is no mapping but {type(view.config).__name__}")
    if view.status not in STATUSES:
        raise ValueError(f"'{view.status}' is no status of a run")
    for digest in view.data_versions.values():
        if not isinstance(digest, str):
            raise TypeError(f"a digest is no text but {type(digest).__name__}")
    return view


_TASK = ("name", "stage", "status", "error", "cached_from")


def records_of(request: Request) -> Records:
    """Return the records of the dashboard's store."""
    return request.app.state.records


def store_of(request: Request) -> Store:
    """Return the dashboard's store."""
    watch: Watch = request.app.state.watch
    return watch.store


def samples_of(request: Request) -> Samples:
    """Return the samples of the dashboard's store."""
    return request.app.state.samples


def pairs_of(request: Request) -> Pairs:
    """Return the dashboard's statistics."""
    return request.app.state.pairs
