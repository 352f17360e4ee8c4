"""Brings the registry's news to targets: at least once, in order, however often a target fails.

    registry/<model>/outbox/<target>.json          how far it has come; changed by compare-and-swap
    registry/<model>/outbox/<target>/<seq>.json    create-only: what was delivered, and when

The history of a model is the outbox: an entry is in it as soon as it is decided, so nothing is lost
where a process dies between a move and its news. A target that stands still holds up no other. Who
delivers holds the target by a claim in its file; a dead one's claim runs out.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from components.registry import HistoryEntry, Registry
from components.runtime.secrets import mask_text
from vila_core.errors import AlreadyExists, Conflict, NotFound, StoreError, UserError, VilaError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_ops.registry.delivering import Refused, Undelivered, deliver_entry
from vila_ops.registry.escape import one_line
from vila_ops.registry.mirror_settings import MirrorSettings, Target, read_settings

CLAIM_S = 90.0
"""A claim that isn't renewed for so long is free."""
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 3600.0
MOST_REFUSALS = 10
"""After so many refusals that another try won't change, an entry is given up."""


@dataclass(frozen=True)
class Standing:
    """How far a target has come with a model: entries up to `done` need nothing more.

    `attempts`, `error` and `next_try` are of the entry after it, where an attempt failed.
    """

    done: int
    attempts: int = 0
    refusals: int = 0
    error: str | None = None
    failed_at: str | None = None
    next_try: str | None = None
    claim: Mapping[str, str] | None = None
    given_up: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Status:
    """One target of one model, as `vila registry sync` shows it."""

    model: str
    target: str
    kind: str
    state: str
    """up to date, pending, failing, delivering, or unreadable."""
    delivered: int
    pending: tuple[int, ...]
    attempts: int
    error: str | None
    next_try: str | None
    given_up: tuple[Mapping[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the status as a JSON-able mapping."""
        return asdict(self)


@dataclass
class Delivered:
    """What one call of `deliver` brought: names as `target model seq`."""

    sent: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


Sender = Callable[[Store, str, Target, str, HistoryEntry], Mapping[str, Any]]


def enqueue(store: Store, model: str, entry: HistoryEntry) -> None:
    """Make a history entry known to every target that is configured. Never raises.

    The entry is in the history already; this only says from where on targets that are new to the
    model begin. What a wrong configuration or a store that fails here leaves out `deliver` does.
    """
    with contextlib.suppress(VilaError, OSError, ValueError):
        for name, _ in read_settings().targets():
            _begin(store, model, name, entry.seq - 1)


def attempt(store: Store, *, seconds: float = 5.0) -> Delivered:
    """Try quick deliveries (webhooks) for a moment, after a promotion. Never raises.

    What is not done by then, and mirrors, are for `vila registry sync` or the dashboard.
    """
    result = Delivered()

    def work() -> None:
        with contextlib.suppress(Exception):
            deliver(store, read_settings(), seconds=seconds, quick=True, result=result)

    # A name that takes a minute to look up must not hold up the command: nobody waits longer.
    thread = threading.Thread(target=work, daemon=True, name="vila-outbox")
    thread.start()
    thread.join(seconds)
    return result


def deliver(
    store: Store,
    settings: MirrorSettings,
    *,
    seconds: float | None = None,
    quick: bool = False,
    now: Callable[[], float] = time.time,
    send: Sender = deliver_entry,
    result: Delivered | None = None,
    again: bool = False,
) -> Delivered:
    """Deliver what is due, each target's entries in order; return what came of it.

    A failed delivery is told and tried again later, at growing intervals; `again` tries at once.
    Begins nothing more after `seconds`; `quick` leaves out targets that may take long. Raises
    StoreError where the models can't be listed.
    """
    end = None if seconds is None else time.monotonic() + seconds
    found = result or Delivered()
    if not any(True for _ in settings.targets()):
        return found
    for model in Registry(store).models():
        for name, target in settings.targets():
            if quick and not target.quick:
                continue
            queue = _Queue(store, model, name, target, now, send, found)
            try:
                while (end is None or time.monotonic() < end) and queue.next(again=again):
                    pass
            except VilaError as error:  # a damaged history of one model holds up no other
                found.failed.append(f"{name} {model}: {_said(error)}")
    return found


def statuses(
    store: Store,
    settings: MirrorSettings,
    now: Callable[[], float] = time.time,
    model: str | None = None,
) -> list[Status]:
    """Return how far every target has come with a model, or with every one. Raises StoreError."""
    registry = Registry(store)
    return [
        _status(store, registry, one, name, target, now)
        for one in ([model] if model else registry.models())
        for name, target in settings.targets()
    ]


def backfill(store: Store, settings: MirrorSettings) -> None:
    """Let targets that are new begin with the history's first entry instead of its last."""
    for model in Registry(store).models():
        for name, _ in settings.targets():
            _begin(store, model, name, 0)


@contextlib.contextmanager
def delivering(store: Store, *, every: float = 30.0) -> Iterator[None]:
    """Deliver in the background while something else is done, such as serving a dashboard."""
    stop = threading.Event()
    thread = threading.Thread(
        target=serve, args=(store, stop), kwargs={"every": every}, daemon=True, name="vila-outbox"
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()  # it may be amid a delivery: nobody waits for that


def serve(store: Store, stop: threading.Event, *, every: float = 30.0) -> None:
    """Deliver again and again until `stop`. What goes wrong meanwhile is tried again."""
    while not stop.is_set():
        with contextlib.suppress(Exception):
            deliver(store, read_settings())
        stop.wait(every)


@dataclass
class _Queue:
    """The entries of one model for one target."""

    store: Store
    model: str
    name: str
    target: Target
    now: Callable[[], float]
    send: Sender
    result: Delivered

    def next(self, *, again: bool = False) -> bool:
        """Deliver the next entry if it is due and nobody else does; return whether to go on."""
        last = _last(self.store, self.model)
        try:
            tag, standing = _read(self.store, self.model, self.name)
        except NotFound:
            _begin(self.store, self.model, self.name, last)
            return False
        if (
            standing.done >= last
            or self._claimed(standing)
            or (self._waits(standing) and not again)
        ):
            return False
        entry = next(e for e in Registry(self.store).history(self.model) if e.seq > standing.done)
        if not self.target.takes(self.model, entry) or self._receipt(entry):
            return self._write(tag, Standing(entry.seq, given_up=standing.given_up)) is not None
        claim = {"by": f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"}
        held = self._write(tag, replace(standing, claim=claim | {"until": self._in(CLAIM_S)}))
        if held is None:
            return False
        return self._deliver(entry, standing, _Held(self, held, standing, claim))

    def _deliver(self, entry: HistoryEntry, standing: Standing, held: _Held) -> bool:
        label = f"{self.name} {self.model} {entry.seq}"
        try:
            with held.renewed():
                answer = self.send(self.store, self.model, self.target, self.name, entry)
        except Exception as error:  # whatever it is, the next try is in its time
            told = error if isinstance(error, Undelivered) else Undelivered(_said(error))
            self.result.failed.append(f"{label}: {_said(told)}")
            held.release(self._failed(entry, standing, told))
            return False
        except BaseException:  # stopped: the next one need not wait for the claim to run out
            held.release(replace(standing, claim=None))
            raise
        self._keep(entry, standing.attempts + 1, answer)
        self.result.sent.append(label)
        return held.release(Standing(entry.seq, given_up=standing.given_up))

    def _failed(self, entry: HistoryEntry, standing: Standing, error: Undelivered) -> Standing:
        """Return the standing after a failure: wait, longer each time, or give the entry up."""
        refusals = standing.refusals + isinstance(error, Refused)
        if refusals >= MOST_REFUSALS:
            lost = {"seq": entry.seq, "error": _said(error), "at": self._in(0)}
            return Standing(entry.seq, given_up=(*standing.given_up[-19:], lost))
        attempts = standing.attempts + 1
        wait = min(FIRST_WAIT_S * 2 ** min(attempts - 1, 20), LONGEST_WAIT_S)
        # Not all targets at once: a share that follows from the name, so that tests can tell it.
        wait *= 1 + (sum(self.name.encode()) % 20) / 100
        return replace(
            standing,
            attempts=attempts,
            refusals=refusals,
            error=_said(error),
            failed_at=self._in(0),
            next_try=self._in(max(wait, error.wait_s or 0)),
            claim=None,
        )

    def _waits(self, standing: Standing) -> bool:
        return standing.next_try is not None and standing.next_try > self._in(0)

    def _claimed(self, standing: Standing) -> bool:
        return standing.claim is not None and standing.claim["until"] > self._in(0)

    def _receipt(self, entry: HistoryEntry) -> bool:
        """Return whether this very entry was delivered, by a process that died just after."""
        return self.store.exists(_receipt(self.model, self.name, entry.seq))

    def _keep(self, entry: HistoryEntry, attempts: int, answer: Mapping[str, Any]) -> None:
        value = {
            "entry": entry.digest(),
            "attempts": attempts,
            "delivered_at": self._in(0),
            "answer": dict(answer),
        }
        with contextlib.suppress(AlreadyExists):
            place = _receipt(self.model, self.name, entry.seq)
            self.store.write(place, (dumps(value, indent=1) + "\n").encode(), create_only=True)

    def _write(self, tag: str | None, standing: Standing) -> str | None:
        """Write the standing if it is still the one of `tag`; return the new tag, None if not."""
        try:
            return self.store.swap(_place(self.model, self.name), _json(standing), expected=tag)
        except Conflict:
            return None

    def _in(self, seconds: float) -> str:
        """Return the time in so many seconds."""
        at = datetime.fromtimestamp(self.now(), UTC) + timedelta(seconds=seconds)
        return at.isoformat(timespec="milliseconds")


class _Held:
    """A claim on a queue, renewed while a delivery lasts."""

    def __init__(
        self, queue: _Queue, tag: str, standing: Standing, claim: Mapping[str, str]
    ) -> None:
        self._queue = queue
        self._tag: str | None = tag
        self._standing = standing
        self._claim = claim
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the claim in the background."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(CLAIM_S / 3):
                claim = {**self._claim, "until": self._queue._in(CLAIM_S)}
                with self._lock, contextlib.suppress(StoreError):
                    if self._tag and not stop.is_set():
                        self._tag = self._queue._write(
                            self._tag, replace(self._standing, claim=claim)
                        )

        thread = threading.Thread(target=work, daemon=True, name="vila-claim")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def release(self, standing: Standing) -> bool:
        """Write where the target stands now, unless the claim was lost to somebody else."""
        with self._lock:
            return self._tag is not None and self._queue._write(self._tag, standing) is not None


def _begin(store: Store, model: str, target: str, seq: int) -> None:
    """Let a target that is new to a model begin after `seq`."""
    place = _place(model, target)
    if not store.exists(place):
        with contextlib.suppress(Conflict):
            store.swap(place, _json(Standing(seq)), expected=None)


def _read(store: Store, model: str, target: str) -> tuple[str | None, Standing]:
    place = _place(model, target)
    tag = store.etag(place)
    try:
        value = json.loads(store.read(place))
        lost = tuple(value.get("given_up") or ())
        if not all(isinstance(one, dict) and {"seq", "error", "at"} <= set(one) for one in lost):
            raise ValueError("given_up: each has seq, error and at")
        return tag, Standing(**{**value, "given_up": lost})
    except (AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"{place}: does not say how far the target has come ({error}); fix: remove it, and the "
            "target begins with what comes next"
        ) from None


def _status(
    store: Store,
    registry: Registry,
    model: str,
    name: str,
    target: Target,
    now: Callable[[], float],
) -> Status:
    kind = type(target).__name__.lower()
    try:
        history = registry.history(model)
        last = history[-1].seq if history else 0
        begun = store.exists(_place(model, name))
        standing = _read(store, model, name)[1] if begun else Standing(last)
    except VilaError as error:
        return Status(model, name, kind, "unreadable", 0, (), 0, _said(error), None, ())
    pending = tuple(
        entry.seq for entry in history if entry.seq > standing.done and target.takes(model, entry)
    )
    present = datetime.fromtimestamp(now(), UTC).isoformat(timespec="milliseconds")
    state = "up to date"
    if pending:
        state = "failing" if standing.error else "pending"
        if standing.claim and standing.claim["until"] > present:
            state = "delivering"
    receipts = store.children(_place(model, name).removesuffix(".json"))
    return Status(
        model=model,
        target=name,
        kind=kind,
        state=state,
        delivered=len(receipts),
        pending=pending,
        attempts=standing.attempts if pending else 0,
        error=standing.error if pending else None,
        next_try=standing.next_try if pending else None,
        given_up=standing.given_up,
    )


def _last(store: Store, model: str) -> int:
    names = store.children(f"registry/{model}/history")
    return max((int(name.removesuffix(".json")) for name in names), default=0)


def _said(error: BaseException) -> str:
    """Return an error as it may be kept and shown: a line without secrets or control characters."""
    return one_line(mask_text(str(error)), 500) or type(error).__name__


def _place(model: str, target: str) -> str:
    return f"registry/{model}/outbox/{target}.json"


def _receipt(model: str, target: str, seq: int) -> str:
    return f"registry/{model}/outbox/{target}/{seq}.json"


def _json(standing: Standing) -> bytes:
    value = {**asdict(standing), "given_up": [dict(one) for one in standing.given_up]}
    return (dumps(value, indent=1) + "\n").encode()
