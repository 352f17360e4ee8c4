"""Paired statistics, computed once per pair of evaluations, beside the requests that ask for them.

Twenty runs of ten benchmarks are nineteen pairs with a million answers: who asks first gets what is
there, and the rest when it is ready. What was computed is kept by the digests of both contents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.registry.noise import Spread
from vila_core.errors import VilaError
from vila_core.eval.curve import Curve, curve
from vila_core.store import Store
from vila_ops.comparing.chosen import Chosen
from vila_ops.evaluations import Evaluation, Evaluations, content_of, evaluated
from vila_ops.kept import Kept
from vila_ops.paired import Pair, Paired, assemble, pair_of

PATIENCE_SECONDS = 0.25
"""For so long a request waits for what is not there yet."""
MOST_UNREAD = 3
"""With more evaluations to be read first, waiting that long would be in vain."""
MOST_WAITING = 400
IDLE_SECONDS = 2.0
"""The computing thread ends after so long without work; the next work starts another one."""
FAILED_SECONDS = 30.0

log = logging.getLogger("vila.dashboard")


@dataclass(frozen=True)
class Outcome:
    """What a run says against the reference: `paired`, or why there is none, or neither yet."""

    paired: Paired | None = None
    problem: str = ""

    @property
    def pending(self) -> bool:
        """Whether it is still being computed."""
        return self.paired is None and not self.problem


@dataclass(frozen=True)
class _Job:
    name: tuple[str, str]
    ours: Chosen
    theirs: Chosen


class Pairs:
    """The statistics of one store's evaluations."""

    def __init__(self, store: Store) -> None:
        """Compute nothing yet."""
        self._store = store
        self.evaluations = Evaluations()
        self._pairs: Kept[Pair] = Kept(16 * 2**20)
        self._curves: Kept[Mapping[str, Curve]] = Kept(16 * 2**20)
        self._failed: Kept[str] = Kept(2**18)
        self._done: dict[tuple[str, str], threading.Event] = {}
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None

    def evaluation(self, one: Chosen) -> Evaluation:
        """Read a run's evaluation. Raises VilaError."""
        return self.evaluations.open(self._store, one.view, one.task)

    def against(
        self,
        reference: Chosen,
        others: Sequence[Chosen],
        noise: Mapping[str, Spread] | None = None,
        patience: float | None = None,
    ) -> list[Outcome]:
        """Return what each of `others` says against the reference, p-values corrected over all.

        `patience` is how many seconds to wait, None for a moment where that may help. While one of
        them is pending, p-values are corrected for those that are there; ask again.
        """
        if patience is None:
            unread = sum(not self.evaluations.known(one.view, one.task) for one in others)
            patience = PATIENCE_SECONDS if unread <= MOST_UNREAD else 0.0
        found = [self._ask(reference, other) for other in others]
        until = time.monotonic() + patience
        for place, (each, other) in enumerate(zip(found, others, strict=True)):
            if isinstance(each, threading.Event):
                each.wait(max(0.0, until - time.monotonic()))
                if each.is_set():
                    found[place] = self._ask(reference, other)
        pairs = {
            place: dataclasses.replace(each, first=reference.name, second=other.name)
            for place, (each, other) in enumerate(zip(found, others, strict=True))
            if isinstance(each, Pair)
        }
        made = dict(zip(pairs, assemble(list(pairs.values()), noise), strict=True))
        return [
            Outcome(paired=made.get(place), problem=each if isinstance(each, str) else "")
            for place, each in enumerate(found)
        ]

    def shots(self, one: Chosen, benchmark: str) -> Curve | None:
        """Return the score by number of shots, None for fewer than two. Raises VilaError."""
        evaluation = self.evaluation(one)

        def make() -> tuple[Mapping[str, Curve], int]:
            found = _curve(evaluation, benchmark)
            return ({} if found is None else {benchmark: found}), 4096

        return self._curves.get((evaluation.digest, benchmark), make).get(benchmark)

    def _ask(self, ours: Chosen, theirs: Chosen) -> Pair | str | threading.Event:
        try:
            name = (_content(ours), _content(theirs))
        except VilaError as error:
            return str(error)
        kept = self._pairs.peek(name)
        if kept is not None:
            return kept
        failed = self._failed.peek((*name, _window()))
        if failed is not None:
            return failed
        with self._lock:
            event = self._done.get(name)
            if event is None:
                event = threading.Event()
                if len(self._done) >= MOST_WAITING:
                    return event
                self._done[name] = event
                self._jobs.put(_Job(name, ours, theirs))
                if self._worker is None:
                    self._worker = threading.Thread(
                        target=self._work, name="vila-pairs", daemon=True
                    )
                    self._worker.start()
        return event

    def _next(self) -> _Job | None:
        """Return the next job, None when there was none for too long: the thread ends then."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._jobs.get(timeout=IDLE_SECONDS)
            with self._lock:
                if self._jobs.empty():  # else one came just now
                    self._worker = None
                    return None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                pair = pair_of(self.evaluation(job.ours), self.evaluation(job.theirs))
                self._pairs.get(job.name, lambda found=pair: (found, 700 * len(found.made) + 500))
            except VilaError as error:
                text = str(error)
                self._failed.get((*job.name, _window()), lambda told=text: (told, len(told) + 200))
            except Exception as error:  # a fault of ours must not end the computing
                log.exception("comparing %s and %s failed", job.ours.name, job.theirs.name)
                text = f"can't be computed: {type(error).__name__}; the dashboard's log has more"
                self._failed.get((*job.name, _window()), lambda told=text: (told, len(told) + 200))
            with self._lock:
                self._done.pop(job.name).set()


def _window() -> int:
    """Return what changes every half minute: a failure is tried again then."""
    return int(time.monotonic() // FAILED_SECONDS)


def _content(one: Chosen) -> str:
    return content_of(evaluated(one.view, one.task))


def _curve(evaluation: Evaluation, benchmark: str) -> Curve | None:
    groups = {
        shots: group for (name, shots), group in evaluation.groups.items() if name == benchmark
    }
    first = next(iter(groups.values()), None)
    if first is None or len(groups) < 2:
        return None
    if any(group.asked is not first.asked or not group.rounds for group in groups.values()):
        return None
    trials = {
        (shots, seed, order): scores.values
        for shots, group in groups.items()
        for (seed, order), scores in group.rounds.items()
    }
    return curve(trials, first.asked.units)
