"""Who did what, when, from where, and whether it was let: lines in the store and in the log.

    audit/2026-11-29/15-01-02.123456-WRITER-SEQ.jsonl      what one process wrote, in order

Each object is written once and never changed. A line names its writer (a process), its number, and
the sha256 of the line before, so that a line that is changed, or taken out of the middle, shows.
A thread writes them: no request waits for the store. While it takes none they are kept in memory,
and all of them are in the process's log at once.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from components.runtime.secrets import mask
from vila_core.errors import AlreadyExists, VilaError
from vila_core.store import Store

FOLDER = "audit/"
MOST_WAITING = 5000
"""Entries that are kept while the store takes none; those that come then are lost, and counted."""
MOST_TOGETHER = 200
_GATHER_SECONDS = 0.1
_RETRY_SECONDS = (1.0, 30.0)
_IDLE_SECONDS = 2.0
_MOST_TEXT = 300

Outcome = Literal["done", "refused", "failed"]
log = logging.getLogger("vila.audit")


class Event(BaseModel):
    """What happened."""

    model_config = ConfigDict(frozen=True)

    at: datetime = Field(description="When, in UTC.")
    who: str = Field(description="The viewer's name; empty of somebody unknown.")
    role: str = Field(description="What the viewer may do; empty of somebody unknown.")
    client: str = Field(description="The address that the request came from.")
    action: str = Field(description="What was asked for: 'log in', 'promote', 'POST /path', …")
    what: str = Field(description="What it was about: a version, a run, a page.")
    outcome: Outcome = Field(description="Whether it was done, refused, or failed.")
    status: int = Field(description="The status of the answer.")
    detail: dict[str, str] = Field(description="More, as the action has it.")


class Entry(Event):
    """An event as it is kept."""

    writer: str = Field(description="The process that wrote it.")
    seq: int = Field(description="Its number among those of its writer, from 1.")
    previous: str = Field(description="sha256 of its writer's line before; empty of the first.")


class _Batch(NamedTuple):
    key: str
    data: bytes
    events: int
    lost: int


class Audit:
    """The log of one process. Close it to have written what waits."""

    def __init__(self, store: Store | None) -> None:
        """Write to a store, from a thread that begins with the first event."""
        self._store = store
        self._writer = secrets.token_hex(6)
        self._seq, self._previous = 0, ""
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self._told = ""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """Entries that the store does not have yet."""
        return len(self._waiting)

    @property
    def trouble(self) -> str:
        """Why the store took none last; empty when it did."""
        return self._told

    def add(self, event: Event) -> None:
        """Log an event, and have it written soon. Never fails and never waits for the store."""
        log.info("%s", event.model_dump_json())
        if self._store is None:
            return
        with self._changed:
            if len(self._waiting) < MOST_WAITING and not self._closing:
                self._waiting.append(event)
            else:
                self._lost += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vila-audit", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until the store has all; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def close(self, seconds: float = 3.0) -> None:
        """Write what waits, for so long at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None and not self.flush(seconds):
            log.warning("%d entries are in this log alone: %s", self.waiting, self._told)

    def _work(self) -> None:
        pause, batch = _RETRY_SECONDS[0], None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, _IDLE_SECONDS)
                if not self._waiting:
                    self._thread = None  # the next event starts another one
                    return
            if batch is None:  # the same bytes again after a failure: they may be there already
                time.sleep(_GATHER_SECONDS)
                batch = self._gathered()
            try:
                self._write(batch)
            except (VilaError, OSError) as error:
                if str(error) != self._told:
                    log.warning("the store takes no audit entries, they wait: %s", error)
                self._told = str(error)
                with self._changed:
                    if self._closing:
                        return
                    self._changed.wait_for(lambda: self._closing, pause)
                pause = min(2 * pause, _RETRY_SECONDS[1])
                continue
            with self._changed:
                for _ in range(batch.events):
                    self._waiting.popleft()
                self._lost -= batch.lost
                self._changed.notify_all()
            pause, self._told, batch = _RETRY_SECONDS[0], "", None

    def _gathered(self) -> _Batch:
        with self._changed:
            events = list(itertools.islice(self._waiting, MOST_TOGETHER))
            lost = self._lost
        told = list(events)
        if lost:
            none = {"who": "", "role": "", "client": "", "what": "", "detail": {"lost": str(lost)}}
            gone = {**none, "action": "entries lost", "outcome": "failed", "status": 0}
            told.append(events[-1].model_copy(update=gone))
        lines = b""
        for event in told:
            self._seq += 1
            chain = {"writer": self._writer, "seq": self._seq, "previous": self._previous}
            line = Entry(**event.model_dump(), **chain).model_dump_json().encode()
            self._previous = sha256(line).hexdigest()
            lines += line + b"\n"
        first = self._seq - len(told) + 1
        at = f"{events[0].at:%Y-%m-%d/%H-%M-%S.%f}"
        return _Batch(f"{FOLDER}{at}-{self._writer}-{first:08d}.jsonl", lines, len(events), lost)

    def _write(self, batch: _Batch) -> None:
        assert self._store is not None
        try:
            self._store.write(batch.key, batch.data, create_only=True)
        except AlreadyExists:  # the first try was written, but its answer got lost
            if self._store.read(batch.key) != batch.data:
                raise


def note(
    request: Request, action: str, what: str = "", *, who: str | None = None, **detail: object
) -> None:
    """Say what a request is about; the guard tells how it ended. One entry for each request.

    `who` is for those that no session names yet. Requests that change something are told without
    this too, by their path alone.
    """
    request.state.audit = {
        "action": action,
        "what": what,
        "detail": {name: str(value) for name, value in detail.items() if value not in ("", None)},
        **({} if who is None else {"who": who}),
    }


def event_of(request: Request, client: str, status: int, told: Mapping[str, Any]) -> Event:
    """Return what is told of a request; long texts are cut, secrets masked."""
    viewer = getattr(request.state, "viewer", None)
    held = {
        "who": viewer.name if viewer else "",
        "role": viewer.role.name if viewer else "",
        "action": f"{request.method} {request.url.path}",
        "what": "",
        "detail": {},
        **told,
    }
    outcome = "done" if status < 400 else "refused" if status in (401, 403, 421, 429) else "failed"
    return Event(
        at=datetime.now(UTC),
        client=client,
        status=status,
        outcome=outcome,
        **{name: _short(value) for name, value in mask(held).items()},
    )


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    text = str(value).encode("utf-8", "replace").decode()
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def entries_of(data: bytes) -> list[tuple[Entry, str]]:
    """Return the entries of an object and the sha256 of each line. Raises ValueError for others."""
    return [
        (Entry.model_validate_json(line), sha256(line).hexdigest()) for line in data.splitlines()
    ]
