"""Gates are asked aside, as that may take seconds: pages wait a moment, then look again.

What was judged is kept a while under a name of its own, so that a person promotes what they saw,
and not what the gates would say by then. The alias moves only from where it stood at that time.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TimedOut
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fastapi import FastAPI

from vila_core.errors import StoreError, UserError, VilaError
from vila_core.store import Store
from vila_ops.registry.promote import Judgement, judge_promotion
from vila_ops.web.aside import Aside

FRESH_SECONDS = 20.0
"""A judgement so young is shown again instead of asking anew."""
KEPT_SECONDS = 900.0
LONGEST_SECONDS = 120.0
MOST_KEPT = 64
MOST_WAITING = 8
WORKERS = 2

log = logging.getLogger("vila.dashboard")


@dataclass(frozen=True)
class Question:
    """What is to be promoted where, as what model, by which gates (a name), and who asks."""

    what: str
    to: str
    model: str
    gates: str
    who: str


@dataclass
class Asked:
    """A question under way or answered. `name` is what a form sends back."""

    question: Question
    future: Future[Judgement]
    name: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=time.monotonic)

    @property
    def age_s(self) -> float:
        """Seconds since it was asked."""
        return time.monotonic() - self.began

    def wait(self, seconds: float) -> Judgement | None:
        """Return the judgement, None while there is none.

        Raises what judging raised; StoreError where it takes longer than LONGEST_SECONDS.
        """
        try:
            return self.future.result(timeout=seconds)
        except TimedOut:
            if self.age_s > LONGEST_SECONDS:
                raise StoreError(
                    f"the gates have not answered for {self.age_s:.0f} s; ask them where more time "
                    f"is: vila promote {self.question.what} --to {self.question.to} --dry-run"
                ) from None
            return None


class Judging:
    """Asks gates for the pages of one process."""

    def __init__(self, store: Store, judge: Callable[..., Judgement] = judge_promotion) -> None:
        self._store = store
        self._judge = judge
        self._pool = Aside(WORKERS, "vila-gates")
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, Asked] = OrderedDict()

    def ask(self, question: Question) -> Asked:
        """Begin to judge, or return the same question under way. Raises StoreError if too many."""
        with self._lock:
            self._forget()
            for one in reversed(self._asked.values()):
                if one.question == question and (not one.future.done() or self._fresh(one)):
                    return one
            waiting = sum(not one.future.done() for one in self._asked.values())
            if waiting >= MOST_WAITING:
                raise StoreError(
                    f"{waiting} promotions are being judged already; try again in a moment."
                )
            future = self._pool.submit(lambda: self._answer(question))
            made = Asked(question, future)
            self._asked[made.name] = made
            return made

    def kept(self, name: str, who: str) -> Judgement | None:
        """Return a judgement that `who` was shown; None if it is not kept any more."""
        with self._lock:
            self._forget()
            found = self._asked.get(name)
        if found is None or found.question.who != who or not found.future.done():
            return None
        return None if found.future.exception() else found.future.result()

    def drop(self, question_of: Judgement) -> None:
        """Forget what was judged of an alias: it has moved."""
        with self._lock:
            for name, one in list(self._asked.items()):
                done = one.future.done() and not one.future.exception()
                if done and _same_alias(one.future.result(), question_of):
                    del self._asked[name]

    def close(self) -> None:
        """End the threads."""
        self._pool.close()

    def _answer(self, asked: Question) -> Judgement:
        try:
            return self._judge(
                self._store,
                asked.what,
                asked.to,
                model=asked.model or None,
                gates=asked.gates or None,
                who=asked.who,
            )
        except (VilaError, OSError):
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.exception("judging %s for %s failed", asked.what, asked.to)
            raise UserError(
                f"{asked.what}: its records can't be read: {type(error).__name__}: {error}"
            ) from error

    def _fresh(self, one: Asked) -> bool:
        return one.age_s < FRESH_SECONDS

    def _forget(self) -> None:
        for name, one in list(self._asked.items()):
            if one.future.done() and (one.age_s > KEPT_SECONDS or len(self._asked) > MOST_KEPT):
                del self._asked[name]


def _same_alias(one: Judgement, other: Judgement) -> bool:
    return (one.model, one.alias) == (other.model, other.alias)


_MAKING = threading.Lock()


def judging_of(app: FastAPI, store: Store) -> Judging:
    """Return the judging of an application; it is made when it is first asked for."""
    with _MAKING:
        if not hasattr(app.state, "judging"):
            app.state.judging = Judging(store)
        return app.state.judging
