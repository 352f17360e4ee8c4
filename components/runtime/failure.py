"""How a task failed, in one message: kind, text and exit code."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from vila_core.errors import EXIT_FAILED, EXIT_INTERRUPTED, UserError, VilaError

_NO_SPACE = "no space left on device"
_NO_MEMORY = ("can't allocate memory", "out of memory")


class TaskFailed(VilaError):
    """A task that ran in this process failed."""

    def __init__(self, task: str, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.task = task
        self.exit_code = exit_code
        self.message = message


class Stopped(BaseException):
    """SIGTERM or SIGINT: not an Exception, so that no stage swallows it."""


@dataclass(frozen=True)
class Failure:
    """The outcome of a task that did not succeed."""

    status: str  # failed | stopped
    exit_code: int
    kind: str
    message: str
    traceback: bool  # whether the log should show where

    @classmethod
    def of(cls, error: BaseException, work: Path | None) -> Failure:
        """Classify what a stage raised; `work` is named when its disk is full."""
        if isinstance(error, VilaError):
            text = str(error)
            return cls("failed", error.exit_code, type(error).__name__, text, False)
        if not isinstance(error, Exception | SystemExit):
            return cls("stopped", EXIT_INTERRUPTED, "Stopped", str(error) or "interrupted", False)
        # Libraries in C++ and Rust tell a full disk or memory in words of their own.
        words = str(error).lower()
        if getattr(error, "errno", None) == errno.ENOSPC or _NO_SPACE in words:
            return cls("failed", EXIT_FAILED, "DiskFull", _disk_full(error, work), False)
        if isinstance(error, MemoryError) or any(part in words for part in _NO_MEMORY):
            return cls("failed", EXIT_FAILED, "OutOfMemory", _out_of_memory(error), False)
        text = _first_lines(str(error)) or "no message"
        return cls("failed", EXIT_FAILED, type(error).__name__, text, True)


def user_failure(message: str) -> Failure:
    """Return the failure for a mistake found before the stage began."""
    return Failure.of(UserError(message), None)


def _disk_full(error: BaseException, work: Path | None) -> str:
    place = getattr(error, "filename", None) or work or "the store's disk"
    return (
        f"{place}: no space left on the device. Nothing half-written was kept; fix: free some "
        "space (or choose another store with --store), then 'vila resume' the run."
    )


def _out_of_memory(error: BaseException) -> str:
    detail = f" ({_first_lines(str(error))})" if str(error) else ""
    return (
        f"out of memory{detail}. Fix: use smaller packs or batches in this task's config, fewer "
        "tasks at once, or a machine with more memory, then 'vila resume' the run."
    )


def _first_lines(text: str, count: int = 3) -> str:
    return " ".join(line.strip() for line in text.strip().splitlines()[:count])
