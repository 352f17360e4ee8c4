"""News of the registry reach every target at least once and in order, whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from receivers import receiving
from typer.testing import CliRunner

from components.registry import Registry, Version
from vila_core.errors import StoreError
from vila_core.store import ArtifactRef, Store, open_store
from vila_ops.cli.main import app
from vila_ops.registry import outbox
from vila_ops.registry.mirror_settings import MirrorSettings

SECRET = "whsec_" + "c2VjcmV0IGZvciB0ZXN0cyBvbmx5IQ=="


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def settings(*urls: str, **more: Any) -> MirrorSettings:
    hooks = {
        f"hook-{number}": {
            "url": url,
            "secret": {"env": "HOOK_SECRET"},
            "timeout_s": 0.5,
            "allow_http": True,
            "allow_private": True,
            **more,
        }
        for number, url in enumerate(urls)
    }
    return MirrorSettings.model_validate({"webhooks": hooks})


def registered(store: Store, model: str = "mini", versions: int = 3) -> Registry:
    registry = Registry(store)
    for number in range(versions):
        artifact = ArtifactRef(uri="", sha256="a" * 64)
        registry.register(Version(model, 0, artifact, f"r{number}", "key", {}, {}, {}))
    return registry


def move(registry: Registry, config: MirrorSettings, to: int, alias: str = "champion") -> None:
    """Move an alias as `vila promote` does: the entry, then the news of it."""
    entry = registry.move("mini", alias, to, why=f"to {to}")
    for name, _ in config.targets():
        outbox._begin(registry._store, "mini", name, entry.seq - 1)


def test_news_are_delivered_in_order_and_once(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving() as receiver:
        config = settings(receiver.url)
        for to in (1, 2, 3):
            move(registry, config, to)
        sent = outbox.deliver(store, config, now=clock).sent
        assert sent == [f"hook-0 mini {n}" for n in (1, 2, 3)]
        assert outbox.deliver(store, config, now=clock).sent == []
    assert receiver.seqs == [1, 2, 3]
    assert [e["data"]["version"] for e in receiver.events] == [1, 2, 3]
    assert [s.state for s in outbox.statuses(store, config, clock)] == ["up to date"]
    receipt = json.loads(store.read("registry/mini/outbox/hook-0/2.json"))
    assert receipt["entry"] == registry.history("mini")[1].digest()


def test_a_new_target_begins_with_what_comes_next(store: Store, clock: Clock) -> None:
    registry = registered(store)
    registry.move("mini", "champion", 1, why="long ago")
    with receiving() as receiver:
        config = settings(receiver.url)
        assert outbox.deliver(store, config, now=clock).sent == []
        registry.move("mini", "champion", 2, why="now")  # the process died before it said so
        assert outbox.deliver(store, config, now=clock).sent == ["hook-0 mini 2"]


def test_backfill_begins_with_the_first_entry(store: Store, clock: Clock) -> None:
    registry = registered(store)
    registry.move("mini", "champion", 1, why="long ago")
    with receiving() as receiver:
        config = settings(receiver.url)
        outbox.backfill(store, config)
        assert outbox.deliver(store, config, now=clock).sent == ["hook-0 mini 1"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (500, "the receiver answered 500"),
        (429, "the receiver answered 429"),
        ("drop", "can't be reached"),
        ("sleep", "no answer within 0.5 s"),
        ("drip", "no answer within 0.5 s"),
        ((302, {"Location": "http://169.254.169.254/"}), "a redirect, which is not followed"),
    ],
)
def test_a_failure_is_told_and_tried_again(
    store: Store, clock: Clock, answer: Any, told: str
) -> None:
    registry = registered(store)
    with receiving(answer, 200) as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        begun = time.monotonic()
        failed = outbox.deliver(store, config, now=clock).failed
        assert time.monotonic() - begun < 8
        assert told in failed[0]
        (status,) = outbox.statuses(store, config, clock)
        assert (status.state, status.pending, status.attempts) == ("failing", (1,), 1)
        assert told in str(status.error)
        assert outbox.deliver(store, config, now=clock).sent == []  # not yet
        clock.now += 13
        assert outbox.deliver(store, config, now=clock).sent == ["hook-0 mini 1"]
        ids = {headers["webhook-id"] for headers in receiver.headers}
        assert len(receiver.bodies) == 2
        assert len(ids) == 1  # a receiver can tell that it is the same news


def test_waits_grow_and_have_an_end(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving(500) as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        tries = []
        for _ in range(40):
            if outbox.deliver(store, config, now=clock).failed:
                tries.append(clock.now)
            clock.now += 3000
        assert len(receiver.bodies) == len(tries)
        assert 15 < len(tries) < 40
        (status,) = outbox.statuses(store, config, clock)
        assert status.pending == (1,)  # an outage is never given up
    waits = []
    for attempts in range(14):
        queue = outbox._Queue(store, "mini", "hook-0", config.webhooks["hook-0"], clock,
                              lambda *a: {}, outbox.Delivered())  # fmt: skip
        standing = outbox.Standing(0, attempts=attempts)
        entry = registry.history("mini")[0]
        after = queue._failed(entry, standing, outbox.Undelivered("x"))
        waits.append(seconds_until(after.next_try, clock))
    assert waits == sorted(waits)
    assert 10 <= waits[0] <= 12
    assert 3600 <= waits[-1] <= 4320


def test_retry_after_is_kept_to(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving((429, {"Retry-After": "120"}), 200) as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        outbox.deliver(store, config, now=clock)
        clock.now += 119
        assert not outbox.deliver(store, config, now=clock).sent
        clock.now += 2
        assert outbox.deliver(store, config, now=clock).sent
    assert len(receiver.bodies) == 2


def test_what_is_refused_again_and_again_is_given_up(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving(*[400] * outbox.MOST_REFUSALS, 200) as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        move(registry, config, 2)
        for _ in range(outbox.MOST_REFUSALS + 1):
            outbox.deliver(store, config, now=clock)
            clock.now += 5000
    (status,) = outbox.statuses(store, config, clock)
    assert status.state == "up to date"
    assert [lost["seq"] for lost in status.given_up] == [1]
    assert receiver.seqs == [1] * outbox.MOST_REFUSALS + [2]


def test_a_target_that_fails_holds_up_no_other(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving("sleep") as slow, receiving() as good:
        config = settings(slow.url, good.url)
        move(registry, config, 1)
        done = outbox.deliver(store, config, now=clock)
    assert done.sent == ["hook-1 mini 1"]
    assert done.failed[0].startswith("hook-0 mini 1: no answer")


def test_a_damaged_history_of_one_model_holds_up_no_other(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving() as receiver:
        config = settings(receiver.url)
        registered(store, "broken", 1).move("broken", "champion", 1, why="x")
        outbox._begin(store, "broken", "hook-0", 0)
        store.write("registry/broken/history/1.json", b"{")
        move(registry, config, 1)
        done = outbox.deliver(store, config, now=clock)
    assert done.sent == ["hook-0 mini 1"]
    assert "broken" in done.failed[0]
    states = {s.model: s.state for s in outbox.statuses(store, config, clock)}
    assert states == {"broken": "unreadable", "mini": "up to date"}


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


def test_only_what_a_target_takes_is_sent(store: Store, clock: Clock) -> None:
    registry = registered(store)
    with receiving() as receiver:
        config = settings(receiver.url, aliases=["champion"], kinds=["rollback"])
        move(registry, config, 1)
        move(registry, config, 2)
        registry.move("mini", "champion", 1, why="back", kind="rollback")
        registry.move("mini", "candidate", 1, why="back", kind="rollback")
        assert outbox.statuses(store, config, clock)[0].pending == (3,)
        outbox.deliver(store, config, now=clock)
    assert receiver.seqs == [3]
    assert receiver.events[0]["type"] == "vila.registry.rollback"


def test_a_promotion_neither_waits_nor_fails(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    entry = registry.move("mini", "champion", 1, why="x")
    broken = tmp_path / "registry.yaml"
    broken.write_text("webhooks: [no")
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(broken))
    outbox.enqueue(store, "mini", entry)
    assert outbox.attempt(store, seconds=1).sent == []
    with receiving("sleep") as receiver:
        write(broken, settings(receiver.url, timeout_s=30))
        outbox.enqueue(store, "mini", entry)
        begun = time.monotonic()
        outbox.attempt(store, seconds=0.5)
        assert time.monotonic() - begun < 8


def test_right_after_a_promotion_only_quick_targets_are_tried(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    entry = registry.move("mini", "champion", 1, why="x")
    with receiving() as receiver:
        config = settings(receiver.url).model_dump(mode="json", exclude_none=True)
        config["huggingface"] = {"hub": {"repo": "team/{model}", "endpoint": "http://127.0.0.1:9"}}
        path = tmp_path / "registry.yaml"
        path.write_text(json.dumps(config))
        monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))
        outbox.enqueue(store, "mini", entry)
        assert outbox.attempt(store, seconds=5).sent == ["hook-0 mini 1"]
    states = {s.target: s.state for s in outbox.statuses(store, outbox.read_settings())}
    assert states == {"hook-0": "up to date", "hub": "pending"}


def test_a_store_that_fails_does_not_fail_a_promotion(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    entry = registry.move("mini", "champion", 1, why="x")
    path = tmp_path / "registry.yaml"
    write(path, settings("http://127.0.0.1:9/"))
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))

    def gone(*_: Any, **__: Any) -> Any:
        raise StoreError("the store is gone")

    for name in ("exists", "swap", "children"):
        monkeypatch.setattr(type(store), name, gone)
    outbox.enqueue(store, "mini", entry)
    assert outbox.attempt(store, seconds=1).sent == []


def test_secrets_are_not_kept_in_the_store(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    registry = registered(store)
    config = settings("http://127.0.0.1:9/")
    move(registry, config, 1)

    def send(*_: Any) -> Mapping[str, Any]:
        raise RuntimeError("401 for very-secret-value\nwith more")

    outbox.deliver(store, config, now=clock, send=send)
    text = store.read("registry/mini/outbox/hook-0.json").decode()
    assert "very-secret-value" not in text
    assert "401 for *** with more" in text


def test_a_standing_that_is_no_json_is_told(store: Store, clock: Clock) -> None:
    registry = registered(store)
    config = settings("http://127.0.0.1:9/")
    move(registry, config, 1)
    store.write("registry/mini/outbox/hook-0.json", b"[1]")
    assert "fix: remove it" in outbox.deliver(store, config, now=clock).failed[0]
    assert outbox.statuses(store, config, clock)[0].state == "unreadable"


def test_errors_hold_no_control_characters(store: Store, clock: Clock) -> None:
    registry = registered(store)
    config = settings("http://127.0.0.1:9/")
    move(registry, config, 1)

    def send(*_: Any) -> Mapping[str, Any]:
        raise RuntimeError("\x1b[31mred\x07\u202e\n" + "x" * 10_000)

    outbox.deliver(store, config, now=clock, send=send)
    error = str(outbox.statuses(store, config, clock)[0].error)
    assert error.isprintable()
    assert len(error) <= 500


def test_news_from_a_bucket(s3_store: Store, clock: Clock) -> None:
    registry = registered(s3_store)
    with receiving(500, 200) as receiver:
        config = settings(receiver.url)
        move(registry, config, 1)
        move(registry, config, 2)
        assert outbox.deliver(s3_store, config, now=clock).failed
        clock.now += 60
        assert len(outbox.deliver(s3_store, config, now=clock).sent) == 2
    assert receiver.seqs == [1, 1, 2]
    assert outbox.statuses(s3_store, config, clock)[0].state == "up to date"


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


def seconds_until(when: str | None, clock: Clock) -> float:
    from datetime import datetime

    assert when is not None
    return datetime.fromisoformat(when).timestamp() - clock.now


def write(path: Path, config: MirrorSettings) -> None:
    path.write_text(json.dumps(config.model_dump(mode="json", exclude_none=True)))


def test_the_command_delivers_and_tells(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--store", str(store.uri)]
    nothing = CliRunner().invoke(app, ["registry", "sync", *place])
    assert nothing.exit_code == 0
    assert "VILA_REGISTRY_CONFIG" in nothing.output
    registry = registered(store)
    path = tmp_path / "registry.yaml"
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))
    with receiving(500, 200) as receiver:
        write(path, settings(receiver.url))
        outbox.enqueue(store, "mini", registry.move("mini", "champion", 1, why="x"))
        shown = CliRunner().invoke(app, ["registry", "sync", "--status", "--json", *place])
        assert json.loads(shown.output)["targets"][0]["state"] == "pending"
        assert not receiver.bodies
        failed = CliRunner().invoke(app, ["registry", "sync", *place])
        assert failed.exit_code == 1
        assert "failed hook-0 mini 1: the receiver answered 500" in failed.output
        done = CliRunner().invoke(app, ["registry", "sync", "--now", *place])
        assert done.exit_code == 0, done.output
        assert "delivered hook-0 mini 1" in done.output
        assert "up to date" in done.output


def test_the_thread_of_a_dashboard_delivers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    path = tmp_path / "registry.yaml"
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))
    stop = threading.Event()
    with receiving() as receiver:
        write(path, settings(receiver.url))
        outbox.enqueue(store, "mini", registry.move("mini", "champion", 1, why="x"))
        thread = threading.Thread(target=outbox.serve, args=(store, stop), kwargs={"every": 0.05})
        thread.start()
        end = time.monotonic() + 5
        while not receiver.bodies and time.monotonic() < end:
            time.sleep(0.02)
        stop.set()
        thread.join(5)
    assert not thread.is_alive()
    assert receiver.seqs == [1]
