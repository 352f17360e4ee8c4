"""Sessions that were ended before their time, told to every process of the same store."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time

import anyio.to_thread

from vila_core.errors import VilaError
from vila_core.store import Store
from vila_ops.web.sessions import Session

FOLDER = "access/revoked/"
FRESH_SECONDS = 5.0
"""So long may another process take a session that was logged out here."""
PATIENCE_SECONDS = 1.0
"""No request waits longer for the list."""
_NAME = re.compile(r"([0-9]{1,12})-([0-9a-f]{32})")

log = logging.getLogger("vila.dashboard")


class Revoked:
    """Empty objects `access/revoked/UNTIL-ID` of the store, read again when they are asked for.

    In this process a session is over at once. A store that takes no object ends it here alone, and
    in others with its time: the log says so.
    """

    def __init__(self, store: Store | None) -> None:
        """Without a store, remember in this process alone."""
        self._store = store
        self._began = time.time()
        self._own: dict[str, float] = {}
        self._found: dict[str, float] = {}
        self._read = -math.inf if store else math.inf
        self._asked = -math.inf
        self._reading: asyncio.Future[None] | None = None
        self._told = False

    def holds(self, session: Session) -> bool:
        """Return whether a session was ended.

        One that began before this process counts as ended until the list was read: it may be on it.
        """
        if self._read == -math.inf and session.began < self._began:
            return True
        return session.id in self._own or session.id in self._found

    async def fresh(self) -> None:
        """Read the list again if it is older than 5 s; a store that is slow is not waited for."""
        now = time.monotonic()
        if now - self._read < FRESH_SECONDS:
            return
        if self._reading is None or self._reading.done():
            self._asked = now
            self._reading = asyncio.ensure_future(
                anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
            )
        if now - self._asked < PATIENCE_SECONDS:
            await asyncio.wait({self._reading}, timeout=PATIENCE_SECONDS)

    async def add(self, session: Session) -> None:
        """End a session, here at once and elsewhere within 5 s."""
        self._own = {**_living(self._own), session.id: session.until}
        if self._store is not None:
            with anyio.move_on_after(5 * PATIENCE_SECONDS):
                await anyio.to_thread.run_sync(self._write, abandon_on_cancel=True)

    def _write(self) -> None:
        assert self._store is not None
        try:
            for name, until in self._own.items():
                if name not in self._found:
                    self._store.write(f"{FOLDER}{math.ceil(until)}-{name}", b"")
                    self._found = {**self._found, name: until}
        except (VilaError, OSError) as error:
            log.warning("a logout is known to this process alone, the store takes none: %s", error)

    def _load(self) -> None:
        assert self._store is not None
        began = time.monotonic()
        found = {}
        try:
            for key in self._store.list(FOLDER):
                match = _NAME.fullmatch(key.removeprefix(FOLDER))
                if match is None:
                    continue
                until = float(match[1])
                if until > time.time():
                    found[match[2]] = until
                else:
                    self._forget(key)
            self._found, self._read, self._told = found, began, False
        except (VilaError, OSError) as error:
            if not self._told:
                log.warning("which sessions were logged out can't be read: %s", error)
            self._told = True

    def _forget(self, key: str) -> None:
        assert self._store is not None
        try:
            self._store.delete(key)
        except (VilaError, OSError):  # credentials that may not delete: it stays, and harms nobody
            return


def _living(kept: dict[str, float]) -> dict[str, float]:
    return {name: until for name, until in kept.items() if until > time.time()}
