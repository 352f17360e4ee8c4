"""Where a step is, and how long each of its phases takes.

A CPU finishes what it is told before it goes on, so its clock measures a phase. A GPU works through
a queue: there, events in the queue mark where a phase begins and ends, and are read only when a row
of metrics is due, so that measuring never waits for the device.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

# `data` is waiting for micro-batches, `collective` waiting for the counts of other ranks.
PHASES: tuple[str, ...] = ("data", "forward", "backward", "optimiser", "checkpoint", "collective")
_QUEUED = ("forward", "backward", "optimiser")  # on a GPU; the others keep the CPU waiting


class Phases:
    """The phase that one rank is in (`current`, outermost first) and the seconds spent in each.

    Only the outermost phase is measured: a checkpoint's collectives are part of the checkpoint.
    """

    def __init__(self, device: torch.device) -> None:
        self.current: tuple[str, ...] = ()
        self.since = time.perf_counter()  # the last change of `current`
        self.annotate = False  # name the phases in a profiler's trace
        self._queued = _QUEUED if device.type == "cuda" else ()
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Be in phase `name`, one of `PHASES`, inside."""
        outer = self.current
        self.current, self.since = (*outer, name), time.perf_counter()
        begin = self._mark() if name in self._queued and not outer else None
        start = self.since
        try:
            with self._annotation(name):
                yield
        finally:
            if begin is not None:
                self._events.append((name, begin, self._mark()))
            elif not outer:
                self._seconds[name] += time.perf_counter() - start
            self.current, self.since = outer, time.perf_counter()

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call; waits for a GPU's queue."""
        taken = self._seconds
        self._seconds = dict.fromkeys(PHASES, 0.0)
        if self._events:
            self._events[-1][2].synchronize()
        for name, begin, end in self._events:
            taken[name] += begin.elapsed_time(end) / 1000
        self._events = []
        return taken

    def _annotation(self, name: str) -> contextlib.AbstractContextManager[object]:
        if self.annotate:
            return torch.profiler.record_function(f"vila: {name}")
        return contextlib.nullcontext()

    @staticmethod
    def _mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
