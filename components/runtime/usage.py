"""What a task has used: CPU time and memory of its process and of those that it started."""

from __future__ import annotations

import contextlib
import resource
import threading

import psutil


class Usage:
    """Counts for one attempt, from a process of its own or, `inline`, from its driver's.

    Memory is sampled, because no one counts it for a tree of processes: `sample` is to be called
    again and again, from any thread. CPU time of a started process counts once that has ended and
    was waited for.
    """

    def __init__(self, *, inline: bool) -> None:
        self._before = _cpu_seconds() if inline else 0.0
        self._process = psutil.Process()
        self._peak = 0
        self._lock = threading.Lock()

    def sample(self) -> int:
        """Return the bytes of resident memory now; what two processes share counts twice."""
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_info().rss
        with self._lock:
            self._peak = max(self._peak, total)
        return total

    def cpu_seconds(self) -> float:
        """Return the user and system CPU seconds so far."""
        return _cpu_seconds() - self._before

    def peak_bytes(self) -> int:
        """Return the highest sample, or the peak of a single process where that is higher."""
        single = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        alone = max(resource.getrusage(who).ru_maxrss for who in single) * 1024
        return max(self._peak, alone)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
