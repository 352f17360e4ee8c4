"""Which address to ask next, so that many threads are busy and no host is pressed.

A host is asked by a few threads at a time, not before it wants to be asked again, and no more once
it has failed many times in a row. Nobody sleeps for one address: it waits here, others go first.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Job = TypeVar("Job")
GIVEN_UP_AFTER = 10
"""So many failures of a host in a row, of the kind that says nothing about the single image."""


@dataclass
class _Host(Generic[Job]):
    waiting: deque[Job] = field(default_factory=deque)
    running: int = 0
    listed: bool = False  # in the heap of hosts that may be asked
    not_before: float = 0.0
    pause_s: float = 0.0
    slow_s: float = 0.0
    failures: int = 0
    known: bool = False  # it has answered: before that, who knows which pause it wants


class Hosts(Generic[Job]):
    """Jobs by host. Times are of the monotonic clock."""

    def __init__(self, per_host: int, pause_s: float) -> None:
        self._per_host, self._pause_s = per_host, pause_s
        self._changed = threading.Condition()
        self._hosts: dict[str, _Host[Job]] = {}
        self._ready: list[tuple[float, int, str]] = []  # when, order, host
        self._later: list[tuple[float, int, str, Job]] = []
        self._order = itertools.count()
        self._closed = False

    def add(self, jobs: Iterable[tuple[str, Job]]) -> None:
        """Let jobs wait for their hosts, in this order."""
        with self._changed:
            for host, job in jobs:
                self._enqueue(host, job)
            self._changed.notify_all()

    def add_later(self, host: str, job: Job, seconds: float) -> None:
        """Let a job wait for so long at least."""
        with self._changed:
            at = time.monotonic() + seconds
            heapq.heappush(self._later, (at, next(self._order), host, job))
            self._changed.notify()

    def take(self) -> tuple[str, Job] | None:
        """Return a job to do now with its host, waiting for one; None after `close`.

        Every job that is taken must be given back by `release`.
        """
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    _, _, name, job = heapq.heappop(self._later)
                    self._enqueue(name, job)
                if self._ready and self._ready[0][0] <= now:
                    _, _, name = heapq.heappop(self._ready)
                    job = self._start(name, now)
                    if job is not None:
                        if self._ready or self._later:
                            self._changed.notify()  # somebody else must watch the clock now
                        return name, job
                    continue
                times = [heap[0][0] for heap in (self._ready, self._later) if heap]
                self._changed.wait(min(times) - now if times else None)
            return None

    def release(
        self,
        name: str,
        *,
        failed: bool = False,
        busy: bool = False,
        wait_s: float = 0.0,
        pause_s: float = 0.0,
    ) -> Sequence[Job]:
        """Note that a job of a host is through; return those that now are given up.

        `wait_s` is how long the host wants to be left alone, `pause_s` how far apart it wants all
        requests to be. One that is `busy` is asked more slowly, until it answers again.
        """
        with self._changed:
            host, now = self._hosts[name], time.monotonic()
            host.running -= 1
            host.known = True
            host.slow_s = _slower(host.slow_s) if busy else _faster(host.slow_s)
            host.pause_s = max(self._pause_s, pause_s, host.slow_s)
            host.not_before = max(host.not_before, now + wait_s, now + host.pause_s)
            host.failures = host.failures + 1 if failed else 0
            given_up: list[Job] = []
            if host.failures >= GIVEN_UP_AFTER:
                given_up = list(host.waiting)
                host.waiting.clear()
                host.failures = 0
            self._list(name, host)
            self._changed.notify()
            return given_up

    def close(self) -> None:
        """Let everybody who waits go home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _enqueue(self, name: str, job: Job) -> None:
        host = self._hosts.setdefault(name, _Host(pause_s=self._pause_s))
        host.waiting.append(job)
        self._list(name, host)

    def _list(self, name: str, host: _Host[Job]) -> None:
        """Put a host on the heap if it may be asked. An idle one goes there to be forgotten."""
        limit = self._per_host if host.known and not host.pause_s else 1
        wanted = host.running < limit if host.waiting else not host.running
        if wanted and not host.listed:
            host.listed = True
            at = max(host.not_before, time.monotonic())  # hosts take turns
            heapq.heappush(self._ready, (at, next(self._order), name))

    def _start(self, name: str, now: float) -> Job | None:
        """Return the next job of a host that came up, None when there is none to do now."""
        host = self._hosts[name]
        host.listed = False
        if not host.waiting and not host.running and host.not_before <= now:
            del self._hosts[name]
            return None
        job = None
        if host.waiting and host.not_before <= now:
            job = host.waiting.popleft()
            host.running += 1
        self._list(name, host)
        return job


def _slower(seconds: float) -> float:
    return min(max(0.25, 2 * seconds), 30.0)


def _faster(seconds: float) -> float:
    return 0.0 if seconds < 0.05 else 0.9 * seconds
