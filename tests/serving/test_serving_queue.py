"""Who waits is served by turns of the askers, and nobody takes all places."""

from __future__ import annotations

from vila_ops.serving.queue import FairQueue


def test_askers_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert queue.add(item[0], item)
    assert queue.first() == "a1"
    assert [queue.take() for _ in range(6)] == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert queue.first() is None
    assert len(queue) == 0


def test_one_alone_may_fill_it_but_not_beside_others() -> None:
    queue: FairQueue[int] = FairQueue(4)
    assert [queue.add("a", n) for n in range(5)] == [True] * 4 + [False]
    shared: FairQueue[int] = FairQueue(4)
    assert shared.add("b", 0)
    assert [shared.add("a", n) for n in range(3)] == [True, True, False]
    assert shared.add("c", 9)
    assert not shared.add("d", 9)


def test_who_leaves_frees_the_place() -> None:
    queue: FairQueue[str] = FairQueue(2)
    queue.add("a", "x")
    queue.add("a", "y")
    assert queue.drop("a", "x")
    assert not queue.drop("a", "x")
    assert not queue.drop("b", "y")
    assert queue.add("b", "z")
    assert queue.clear() == ["y", "z"]
    assert len(queue) == 0
