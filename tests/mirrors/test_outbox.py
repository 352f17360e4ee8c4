"""News of the registry reach every target in order, and what fails is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from news import Clock, move, registered, settings
from receivers import receiving

from vila_core.store import Store
from vila_ops.registry import outbox

pytestmark = pytest.mark.usefixtures("secret")


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
