"""The store, watched: two threads that list the runs and ask whether the store answers.

Pages and metrics read what they found last, so that no visitor waits for ten thousand runs, and
a store that hangs hangs nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from vila_core.errors import NotFound, StoreError, VilaError
from vila_core.store import Store
from vila_ops.run_index import KEY, Listing, RunIndex, RunRow
from vila_ops.web.records import last_row

PROBE_SECONDS = 5.0
LOCAL_SECONDS = 5.0
REMOTE_SECONDS = 15.0
SILENT_SECONDS = 60.0
"""A probe without an answer for so long counts as none."""
MOST_RUNNING = 20
"""Running runs whose tasks are told one by one: what Prometheus keeps must stay bounded."""

log = logging.getLogger("vila.dashboard")


@dataclass(frozen=True)
class Snapshot:
    """The runs as listed at `at` (UTC); latest rows of metrics by (run, task) of what runs."""

    listing: Listing
    at: datetime
    duration_s: float
    latest: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)

    @property
    def age_s(self) -> float:
        """Seconds since the listing."""
        return max(0.0, (datetime.now(UTC) - self.at).total_seconds())

    @cached_property
    def version(self) -> str:
        """What changes when the list of runs would look different."""
        rows = [
            (row.run_id, row.status, row.done, *((_live(row),) if row.status == "running" else ()))
            for row in self.listing.rows
        ]
        return f"{hash((*rows, *self.listing.unreadable)) & (2**64 - 1):016x}"

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """All metrics that a run has, by name."""
        names: set[str] = set()
        for row in self.listing.rows:
            names.update(row.metrics)
        return tuple(sorted(names))


def _live(row: RunRow) -> tuple[object, ...]:
    return round(row.duration_s or 0.0, -1), *sorted(row.metrics.items())


@dataclass(frozen=True)
class Probe:
    """Whether the store answered, how long that took, or why not."""

    ok: bool
    latency_s: float
    problem: str = ""


class Watch:
    """Start it before the first request; `close` ends its threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.snapshot: Snapshot | None = None
        self.trouble = ""
        """Why the last listing failed; empty when it did not."""
        self.said = ""
        self._probe: Probe | None = None
        self._probed = self._began = time.monotonic()
        self._seen_root = False
        self._end = threading.Event()
        self._index = RunIndex(store, say=self._say)
        self._remote = store.local_path("") is None
        self._latest_due = 0.0

    def start(self) -> None:
        """Begin to watch."""
        seconds = REMOTE_SECONDS if self._remote else LOCAL_SECONDS
        for name, work, pause in (
            ("vila-probe", self.probe_once, PROBE_SECONDS),
            ("vila-index", self.list_once, seconds),
        ):
            threading.Thread(target=self._loop, args=(work, pause), name=name, daemon=True).start()

    def close(self) -> None:
        """End the threads; what they are in the middle of is dropped."""
        self._end.set()

    @property
    def probe(self) -> Probe:
        """The state of the store by the last probe; one that does not come back is none."""
        silent = time.monotonic() - self._probed
        if silent > SILENT_SECONDS:
            return Probe(False, silent, f"the store has not answered for {silent:.0f} s")
        return self._probe or Probe(False, silent, "the store has not been asked yet")

    def probe_once(self) -> None:
        """Ask the store whether it is there."""
        began = time.monotonic()
        try:
            self._ask()
            self._probe = Probe(True, time.monotonic() - began)
        except (VilaError, OSError) as error:
            self._probe = Probe(False, time.monotonic() - began, str(error))
        self._probed = time.monotonic()

    def list_once(self) -> None:
        """List the runs, and read how far the running ones are."""
        began = time.monotonic()
        at = datetime.now(UTC)
        try:
            self._present()
            listing = self._index.list()
            latest = self._latest(listing)
            self.snapshot = Snapshot(listing, at, time.monotonic() - began, latest)
            self.trouble = ""
            self._index.write()
        except (VilaError, OSError) as error:
            self.trouble = str(error)
            raise

    def _ask(self) -> None:
        self._present()
        for _ in self.store.list(KEY):
            break

    def _present(self) -> None:
        """Raise StoreError when the directory of a store that was there is gone."""
        root = self.store.local_path("")
        if root is None:
            return
        if root.is_dir():
            self._seen_root = True
        elif self._seen_root or root.exists():
            raise StoreError(f"{root}: the store's folder is not there; mount or restore it.")

    def _latest(self, listing: Listing) -> dict[tuple[str, str], Mapping[str, float]]:
        """Return the newest row of metrics of each running task; of a bucket only now and then."""
        before = self.snapshot.latest if self.snapshot else {}
        if self._remote and time.monotonic() < self._latest_due:
            return dict(before)
        self._latest_due = time.monotonic() + SILENT_SECONDS
        found = {}
        for view in sorted(listing.running.values(), key=lambda view: view.started_at)[
            -MOST_RUNNING:
        ]:
            for task in view.tasks:
                if task.status == "running" and task.loss is not None:  # others write no rows
                    found[view.run_id, task.name] = last_row(self.store, view, task)
        return found

    def _loop(self, work: Callable[[], None], pause: float) -> None:
        told = ""
        while not self._end.is_set():
            try:
                work()
                if told:
                    log.warning("the store answers again")
                told = ""
            except (VilaError, OSError, NotFound) as error:
                if str(error) != told:
                    log.warning("%s", error)
                told = str(error)
            except Exception:  # a fault of ours must not end the watching
                log.exception("watching the store failed")
            self._end.wait(pause)

    def _say(self, text: str) -> None:
        self.said = text
        log.warning("%s", text)
