"""Many may deliver at once, and any of them may die: each news is sent once, or again."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from news import SECRET, Clock, move, registered, settings, write
from receivers import receiving

from vila_core.store import Store, open_store
from vila_ops.registry import outbox

pytestmark = pytest.mark.usefixtures("secret")


def test_many_delivering_at_once_send_each_news_once(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving() as receiver:
        receiver.sleep_s = 0.02
        config = settings(receiver.url)
        for to in (1, 2, 3, 1, 2, 3):
            move(registry, config, to)

        def work(_: int) -> list[str]:
            own = open_store(str(store.uri))
            found: list[str] = []
            end = time.monotonic() + 10
            while time.monotonic() < end:
                found += outbox.deliver(own, config, now=clock).sent
                if outbox.statuses(own, config, clock)[0].state == "up to date":
                    break
            return found

        with ThreadPoolExecutor(6) as pool:
            sent = [label for found in pool.map(work, range(6)) for label in found]
    assert sorted(sent) == [f"hook-0 mini {n}" for n in range(1, 7)]
    assert receiver.seqs == [1, 2, 3, 4, 5, 6]


class Died(BaseException):
    """A process that is no more."""


def dies(when: str) -> Callable[..., Mapping[str, Any]]:
    def send(*_: Any) -> Mapping[str, Any]:
        raise Died(when)

    return send


def test_the_claim_of_a_dead_process_runs_out(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    with receiving() as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        # It dies without a word: nothing of what it would still have done is done.
        monkeypatch.setattr(outbox._Held, "release", lambda *a: False)
        with pytest.raises(Died):
            outbox.deliver(store, config, now=clock, send=dies("while sending"))
        monkeypatch.undo()
        monkeypatch.setenv("HOOK_SECRET", SECRET)
        assert outbox.statuses(store, config, clock)[0].state == "delivering"
        assert outbox.deliver(store, config, now=clock).sent == []
        clock.now += outbox.CLAIM_S + 1
        assert outbox.deliver(store, config, now=clock).sent == ["hook-0 mini 1"]


def test_a_stopped_process_lets_its_claim_go(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving() as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        with pytest.raises(Died):
            outbox.deliver(store, config, now=clock, send=dies("Ctrl-C"))
        assert outbox.deliver(store, config, now=clock).sent == ["hook-0 mini 1"]


def test_what_was_delivered_before_a_crash_is_not_sent_again(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    with receiving() as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        monkeypatch.setattr(outbox._Held, "release", lambda *a: False)  # died after the receipt
        outbox.deliver(store, config, now=clock)
        monkeypatch.undo()
        monkeypatch.setenv("HOOK_SECRET", SECRET)
        clock.now += outbox.CLAIM_S + 1
        outbox.deliver(store, config, now=clock)
        assert outbox.statuses(store, config, clock)[0].state == "up to date"
    assert receiver.seqs == [1]


def test_a_long_delivery_keeps_its_claim(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "CLAIM_S", 0.3)
    registry = registered(store)
    config = settings("http://127.0.0.1:9/")
    move(registry, config, 1)
    inside, calls = threading.Event(), []

    def send(*_: Any) -> Mapping[str, Any]:
        calls.append(1)
        inside.set()
        time.sleep(1.0)
        return {}

    thread = threading.Thread(target=lambda: outbox.deliver(store, config, send=send))
    thread.start()
    inside.wait(5)
    time.sleep(0.6)  # twice as long as a claim
    assert outbox.deliver(store, config, send=send).sent == []
    thread.join()
    assert len(calls) == 1
    assert outbox.statuses(store, config)[0].state == "up to date"


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    path = tmp_path / "registry.yaml"
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))
    with receiving("sleep", 200) as receiver:
        config = settings(receiver.url, timeout_s=60)
        write(path, config)
        for to in (1, 2):
            outbox.enqueue(store, "mini", registry.move("mini", "champion", to, why="x"))
        command = [sys.executable, "-m", "vila_ops.cli.main", "registry", "sync"]
        first = subprocess.Popen([*command, "--store", str(store.uri)])
        end = time.monotonic() + 60
        while not receiver.bodies and time.monotonic() < end:
            time.sleep(0.05)
        first.kill()
        first.wait()
        assert outbox.deliver(store, config).sent == []  # its claim is still there
        later = lambda: time.time() + outbox.CLAIM_S + 1  # noqa: E731
        assert len(outbox.deliver(store, config, now=later).sent) == 2
        many = [subprocess.Popen([*command, "--store", str(store.uri)]) for _ in range(3)]
        for to in (3, 1, 2):
            registry.move("mini", "champion", to, why="x")
        assert [one.wait(60) for one in many] == [0, 0, 0]
        outbox.deliver(store, config)
    assert receiver.seqs == [1, 1, 2, 3, 4, 5]
    assert receiver.headers[0]["webhook-id"] == receiver.headers[1]["webhook-id"]
