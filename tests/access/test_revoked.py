"""A session that was logged out is good nowhere, also in another process of the same store."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from vila_core.errors import StoreError
from vila_core.store import Store
from vila_ops.web import revoked as revoked_module
from vila_ops.web.revoked import FOLDER, Revoked
from vila_ops.web.sessions import Session


def session(number: int = 1, *, began: float = 0.0, lasts: float = 3600.0) -> Session:
    began = began or time.time()
    return Session("ada", "token", "m", f"{number:032x}", began, began + lasts)


def read(revoked: Revoked) -> None:
    revoked._read = revoked._asked = -1e9
    asyncio.run(revoked.fresh())


def test_every_process_knows(store: Store) -> None:
    here, there = Revoked(store), Revoked(store)
    read(there)
    one, other = session(1), session(2)
    asyncio.run(here.add(one))
    assert (here.holds(one), here.holds(other)) == (True, False)
    assert not there.holds(one), "it has just read the list"
    read(there)
    assert (there.holds(one), there.holds(other)) == (True, False)
    later = Revoked(store)
    asyncio.run(later.fresh())
    assert later.holds(one), "one that starts afterwards, too"
    assert later.holds(session(2, began=time.time() - 60)) is False


def test_until_the_list_is_read_older_sessions_are_not_taken(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(prefix: str = "") -> list[str]:
        raise StoreError("the bucket does not answer")

    monkeypatch.setattr(store, "list", away)
    revoked = Revoked(store)
    asyncio.run(revoked.fresh())
    assert "can't be read: the bucket does not answer" in caplog.text
    assert revoked.holds(session(began=time.time() - 60))
    assert not revoked.holds(session(began=time.time() + 1)), "one that begins now can't be on it"


def test_a_store_that_takes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(key: str, data: bytes, *, create_only: bool = False) -> None:
        raise StoreError("access denied")

    monkeypatch.setattr(store, "write", full)
    revoked = Revoked(store)
    asyncio.run(revoked.add(session()))
    assert revoked.holds(session())
    assert "a logout is known to this process alone" in caplog.text


def test_a_store_that_hangs_is_not_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked_module, "PATIENCE_SECONDS", 0.1)

    def hang(prefix: str = "") -> list[str]:
        time.sleep(1.0)
        return []

    monkeypatch.setattr(store, "list", hang)

    async def several() -> float:
        revoked = Revoked(store)
        began = time.monotonic()
        for _ in range(20):
            await revoked.fresh()
        return time.monotonic() - began

    assert asyncio.run(several()) < 0.9


def test_what_is_over_is_forgotten(store: Store) -> None:
    old, new = session(1, lasts=-10), session(2)
    revoked = Revoked(store)
    for one in (old, new):
        asyncio.run(revoked.add(one))
    store.write(f"{FOLDER}foreign", b"")
    read(revoked)
    names = [key.removeprefix(FOLDER) for key in store.list(FOLDER)]
    assert [name.partition("-")[2] for name in names] == [new.id, ""]
