"""Work aside from requests, in threads that no one waits for when the dashboard ends."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Value = TypeVar("Value")

IDLE_SECONDS = 2.0
"""A thread without work for so long ends; the next work starts another one."""


class Aside:
    """A few daemon threads: unlike an executor's, they hold up no exit, and end when idle."""

    def __init__(self, workers: int, name: str) -> None:
        """Start them with the first work; `name` is that of the threads."""
        self._workers, self._name = workers, name
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._todo: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )

    def submit(self, work: Callable[[], Value]) -> Future[Value]:
        """Have `work` done; the future is what it returns or raises."""
        future: Future[Value] = Future()
        with self._lock:
            self._todo.put((future, work))
            if len(self._threads) < self._workers:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._threads.add(thread)
                thread.start()
        return future

    def close(self) -> None:
        """End the threads when what they do is done."""
        with self._lock:
            for _ in self._threads:
                self._todo.put(None)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Return the next work, None for the end: asked for, or after too long without any."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._todo.get(timeout=IDLE_SECONDS)
            with self._lock:
                if self._todo.empty():  # else work came just now
                    self._threads.discard(threading.current_thread())
                    return None

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            future, work = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # whoever waits for it is told
                future.set_exception(error)
