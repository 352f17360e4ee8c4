"""The index of lineage of one dashboard: brought up to date aside, asked by one page at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TimedOut

from fastapi import FastAPI

from vila_core.errors import StoreError
from vila_core.store import Store
from vila_ops.lineage import LineageIndex
from vila_ops.web.aside import Aside

WAIT_SECONDS = 4.0

_MAKING = threading.Lock()


class LineageDesk:
    """Lets pages ask the index; none waits long while ten thousand records are read at first."""

    def __init__(self, store: Store) -> None:
        self._index = LineageIndex(store)
        self._pool = Aside(1, "vila-lineage")
        self._lock = threading.Lock()
        self._future: Future[None] | None = None

    @contextlib.contextmanager
    def current(self) -> Iterator[LineageIndex]:
        """Yield the index as the store is now. Raises StoreError, also while it is being made."""
        with self._lock:
            if self._future is None or self._future.done():
                self._future = self._pool.submit(self._renew)
            future = self._future
        try:
            future.result(timeout=WAIT_SECONDS)
        except TimedOut:
            raise Busy(len(self._index)) from None
        with self._index.lock:
            yield self._index

    def close(self) -> None:
        """End the thread."""
        self._pool.close()

    def _renew(self) -> None:
        with self._index.lock:
            self._index.refresh()
            self._index.write()


class Busy(StoreError):
    """The index is being made."""

    def __init__(self, records: int) -> None:
        super().__init__(
            f"the store is being read for the index of lineage, {records:,} records so far; this "
            "is done once: look again in a moment."
        )


def desk_of(app: FastAPI, store: Store) -> LineageDesk:
    """Return the desk of an application; it is made when it is first asked for."""
    with _MAKING:
        if not hasattr(app.state, "lineage"):
            app.state.lineage = LineageDesk(store)
        return app.state.lineage
