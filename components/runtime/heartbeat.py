"""The heartbeat: progress and memory of a running task, written from a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from typing import Any

from components.runtime.record import AttemptWriter
from components.runtime.usage import Usage
from vila_core.errors import StoreError

LOCAL_SECONDS = 1.0
REMOTE_SECONDS = 10.0


class Heartbeat:
    """Writes progress.json again and again (and uploads the log, where the store is remote)."""

    def __init__(self, writer: AttemptWriter, usage: Usage) -> None:
        self._writer, self._usage = writer, usage
        self._seconds = REMOTE_SECONDS if writer.remote else LOCAL_SECONDS
        self._latest: dict[str, Any] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="vila-heartbeat")
        self._thread.start()

    def progress(
        self, done: int, total: int, unit: str, values: Mapping[str, float | None]
    ) -> None:
        """Remember the latest progress for the next beat."""
        self._latest = {"done": done, "total": total, "unit": unit, "values": values}

    def close(self) -> None:
        """Write the last state and end."""
        self._end.set()
        self._thread.join()
        self._write()

    def _beat(self) -> None:
        while not self._end.wait(self._seconds):
            self._write()

    def _write(self) -> None:
        # A store that fails for a moment must not end a task; a lasting failure shows at the end.
        with contextlib.suppress(StoreError):
            memory = self._usage.sample()
            self._writer.progress({**self._latest, "pid": os.getpid(), "rss_bytes": memory})
            self._writer.sync()
