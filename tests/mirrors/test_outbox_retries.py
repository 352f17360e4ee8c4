"""What could not be delivered is tried again, later and later, and refusals are given up."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
from news import Clock, move, registered, settings
from receivers import receiving

from vila_core.store import Store
from vila_ops.registry import outbox

pytestmark = pytest.mark.usefixtures("secret")


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
        assert after.next_try is not None
        waits.append(datetime.fromisoformat(after.next_try).timestamp() - clock.now)
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
