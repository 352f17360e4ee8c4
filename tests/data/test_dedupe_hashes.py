"""The look-up structures of deduplication against the plain way: compare with everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila_core.data.dedupe.hamming import HammingIndex, leaders
from vila_core.data.dedupe.seen import FirstSeen, Keys

pytestmark = pytest.mark.usefixtures("small_levels")


def relatives(seed: int, count: int, distance: int) -> np.ndarray:
    """Hashes around a few centres, some just within the distance of each other, some just not."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 6, dtype=np.uint64)[rng.integers(0, 6, count)]
    for _ in range(distance):
        flip = np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
        hashes = np.where(rng.random(count) < 0.7, hashes ^ flip, hashes)
    return hashes


def differ(left: np.uint64, right: np.uint64) -> int:
    return (int(left) ^ int(right)).bit_count()


def by_comparing_all(hashes: np.ndarray, distance: int) -> list[int]:
    kept: list[int] = []
    found: list[int] = []
    for place, value in enumerate(hashes):
        near = [one for one in kept if differ(hashes[one], value) <= distance]
        found.append(near[0] if near else place)
        if not near:
            kept.append(place)
    return found


@given(st.integers(0, 2**31), st.integers(0, 90), st.integers(0, 11), st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_leaders_are_those_of_comparing_all(
    seed: int, count: int, distance: int, batch: int
) -> None:
    hashes = relatives(seed, count, distance)
    assert leaders(hashes, distance, batch=batch).tolist() == by_comparing_all(hashes, distance)


@given(st.integers(0, 2**31), st.lists(st.integers(0, 9), max_size=12), st.integers(0, 11))
@settings(max_examples=150, deadline=None)
def test_first_finds_the_earliest_within_the_distance(
    seed: int, batches: list[int], distance: int
) -> None:
    index = HammingIndex(distance)
    known = relatives(seed, sum(batches), distance)
    asked = np.concatenate([relatives(seed, 9, distance), known[:5]])
    done = 0
    for size in batches:
        index.add(known[done : done + size])
        done += size
        expected = [
            next((n for n in range(done) if differ(known[n], one) <= distance), -1) for one in asked
        ]
        assert index.first(asked).tolist() == expected
        assert index.first(asked[:0]).tolist() == []
    assert [index[number] for number in range(len(index))] == known.tolist()
    with pytest.raises(IndexError):
        index[len(index)]


def test_a_hash_one_bit_too_far_is_another() -> None:
    """Four bits over four pieces are the hardest case for distance 3 and 4: no piece is equal."""
    far = np.array([0, 1 | 1 << 16 | 1 << 32 | 1 << 48], dtype=np.uint64)
    assert leaders(far, 3).tolist() == [0, 1]
    assert leaders(far, 4).tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 99)), max_size=80))
def test_first_seen_is_a_dictionary_in_which_the_first_wins(sets: list[tuple[int, int]]) -> None:
    table, plain = FirstSeen(), dict[int, int]()
    for value, row in sets:
        wide = value * 0x9E3779B97F4A7C15 % 2**64
        table.set(wide, row)
        plain.setdefault(wide, row)
        assert len(table) == len(plain)
    for value in range(14):
        wide = value * 0x9E3779B97F4A7C15 % 2**64
        assert table.get(wide) == plain.get(wide)


@given(st.lists(st.text()))
def test_keys_come_back(texts: list[str]) -> None:
    keys = Keys()
    assert [keys.append(text) for text in texts] == list(range(len(texts)))
    assert [keys[number] for number in range(len(keys))] == texts
