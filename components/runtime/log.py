"""A task's log: everything that it and its children print, secrets masked, also on the console."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO

from components.runtime.secrets import mask_text, secret_values

_DRAIN_SECONDS = 2.0
"""At its end a task waits no longer than this for what its children still print."""
_QUIET_SECONDS = 0.05
"""Nor once they said nothing for so long: one of them (W&B's service) lives on for a while."""
_PIECE = 65536


class TaskLog:
    """Log to a file. With `capture` file descriptors 1 and 2 go there too, C libraries included.

    Without `capture` (the inline runner: the terminal is the driver's) it takes the task's own
    lines and what Python's `logging` emits.
    """

    def __init__(self, path: Path, *, capture: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._secrets = secret_values()
        self._lock = threading.Lock()
        self._tee = _Tee(self._file, self._secrets) if capture else None
        self._handler: logging.Handler | None = None
        if not capture:
            self._handler = _Lines(self)
            logging.getLogger().addHandler(self._handler)

    def line(self, text: str) -> None:
        """Write one line with the time of day."""
        stamped = f"{time.strftime('%H:%M:%S')} {text}\n"
        if self._tee is not None:
            with contextlib.suppress(OSError):  # a closed console must not end the task
                sys.stdout.write(stamped)
                sys.stdout.flush()
        else:
            self.raw(stamped)

    def raw(self, text: str) -> None:
        """Write to the file only; neither a full disk nor a word after `close` makes it fail."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._file.write(mask_text(text, self._secrets).encode("utf-8", errors="replace"))

    def close(self) -> None:
        """Give the descriptors back and close the file."""
        if self._tee is not None:
            self._tee.close()
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
        self._file.close()


class _Lines(logging.Handler):
    def __init__(self, log: TaskLog) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._log.line(self.format(record))


class _Tee:
    """Descriptors 1 and 2 into a pipe; a thread copies it, line by line, to file and console."""

    def __init__(self, file: IO[bytes], secrets: tuple[str, ...]) -> None:
        self._file = file
        self._secrets = secrets
        _flush()
        self._saved = [os.dup(1), os.dup(2)]
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        # A crash in C kills the copying thread as well: its stack goes to the file directly.
        faulthandler.enable(file)
        self._closing, self._close = os.pipe()  # a byte in it wakes the thread
        self._thread = threading.Thread(target=self._copy, args=(reading,), daemon=True)
        self._thread.start()

    def _copy(self, reading: int) -> None:
        left = b""
        for data in self._pieces(reading):
            # Whole lines only, so that a secret is not cut in two; \r ends a progress bar's line.
            cut = max((left + data).rfind(b"\n"), (left + data).rfind(b"\r")) + 1
            ready, left = (left + data)[:cut], (left + data)[cut:]
            if ready:
                self._write(ready)
        if left:
            self._write(left)

    def _pieces(self, reading: int) -> Iterator[bytes]:
        """Yield what comes until the last child that may write is gone, or `close` was called.

        The pipe stays open in that case: a child that still writes would be killed by the signal.
        """
        with DefaultSelector() as selector:
            selector.register(reading, EVENT_READ)
            selector.register(self._closing, EVENT_READ)
            while self._closing not in [key.fd for key, _ in selector.select()]:
                if not (data := os.read(reading, _PIECE)):
                    os.close(reading)
                    return
                yield data
            selector.unregister(self._closing)
            until = time.monotonic() + _DRAIN_SECONDS
            while time.monotonic() < until and selector.select(_QUIET_SECONDS):
                if not (data := os.read(reading, _PIECE)):
                    os.close(reading)
                    return
                yield data

    def _write(self, data: bytes) -> None:
        for secret in self._secrets:
            data = data.replace(secret.encode(), b"***")
        with contextlib.suppress(OSError):  # a full disk: the task itself will say so
            self._file.write(data)
        with contextlib.suppress(OSError):
            os.write(self._saved[0], data)

    def close(self) -> None:
        _flush()
        faulthandler.disable()
        os.dup2(self._saved[0], 1)
        os.dup2(self._saved[1], 2)
        os.write(self._close, b"x")
        self._thread.join(2 * _DRAIN_SECONDS)  # never for good: the console may take nothing
        if not self._thread.is_alive():
            for descriptor in (*self._saved, self._close, self._closing):
                os.close(descriptor)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
