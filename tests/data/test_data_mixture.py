from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila_core.data.mixture import Mixture, Source, check_weights
from vila_core.errors import UserError


def source(name: str, count: int, low: int, high: int) -> Source:
    return Source(name, np.random.default_rng(count).integers(low, high + 1, size=count))


SOURCES = st.lists(
    st.tuples(st.integers(1, 400), st.integers(1, 200), st.integers(0, 300)), min_size=1, max_size=6
)


@given(SOURCES, st.data(), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_shares_of_tokens_come_out_and_no_source_is_stuck(
    shapes: list[tuple[int, int, int]], data: st.DataObject, seed: int
) -> None:
    """Within 0.5 % of the whole after 10,000 draws; every source is drawn again and again."""
    sources = [
        source(f"s{n}", count, low, low + more) for n, (count, low, more) in enumerate(shapes)
    ]
    weights = data.draw(st.lists(st.floats(0.05, 10), min_size=len(sources), max_size=len(sources)))
    mixture = Mixture(sources, weights, seed)
    draws, cursor = mixture.draw(mixture.start(), 10_000)
    total = sum(cursor.tokens)
    for number, share in enumerate(mixture.shares):
        assert cursor.tokens[number] / total == pytest.approx(share, abs=0.005)
    assert sum(cursor.draws) == 10_000
    drawn, tokens = Counter[int](), Counter[int]()
    for number, sample in draws:
        drawn[number] += 1
        tokens[number] += int(sources[number].lengths[sample])
    assert [drawn[n] for n in range(len(sources))] == list(cursor.draws)
    assert [tokens[n] for n in range(len(sources))] == list(cursor.tokens)


def test_the_deficit_stays_below_one_sample_all_along() -> None:
    """Not only in the end: a source is never behind its share by more than the longest samples."""
    sources = [source("a", 300, 1, 40), source("b", 50, 100, 500), source("c", 700, 5, 9)]
    mixture = Mixture(sources, [1, 3, 2], seed=5)
    cursor = mixture.start()
    for _ in range(3000):
        _, cursor = mixture.draw(cursor, 1)
        total = sum(cursor.tokens)
        behind = [share * total - t for share, t in zip(mixture.shares, cursor.tokens, strict=True)]
        assert max(map(abs, behind)) <= 2 * 500


@given(SOURCES, st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_shares_may_count_something_else_than_lengths(
    shapes: list[tuple[int, int, int]], seed: int
) -> None:
    """As with supervised tokens: zero for some samples, and another mean than the lengths."""
    sources = []
    for number, (count, low, more) in enumerate(shapes):
        plain = source(f"s{number}", count, low, low + more)
        counted = plain.lengths // np.random.default_rng(seed).integers(1, 9, size=count)
        counted[0] = max(counted[0], 1)
        sources.append(Source(plain.name, plain.lengths, counted))
    mixture = Mixture(sources, [n + 1 for n in range(len(sources))], seed)
    draws, cursor = mixture.draw(mixture.start(), 10_000)
    found = Counter[int]()
    for number, sample in draws:
        found[number] += int(sources[number].counts[sample])
    assert [found[n] for n in range(len(sources))] == list(cursor.tokens)
    longest = max(int(one.counts.max()) for one in sources)
    for number, share in enumerate(mixture.shares):
        assert abs(cursor.tokens[number] - share * sum(cursor.tokens)) <= 2 * longest + 1


@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.1, 4)), min_size=2, max_size=4),
    st.integers(1, 300),
)
@settings(max_examples=40, deadline=None)
def test_limits_end_sources_and_the_others_keep_their_proportions(
    shapes: list[tuple[int, float]], piece: int
) -> None:
    sources = [
        Source(f"s{n}", source(f"s{n}", count, 3, 30).lengths, max_epochs=limit)
        for n, (count, limit) in enumerate(shapes)
    ]
    mixture = Mixture(sources, [1] * len(sources), seed=0)
    limits = [max(1, int(limit * count + 1e-6)) for count, limit in shapes]
    cursor, found = mixture.start(), []
    while True:
        draws, cursor = mixture.draw(cursor, piece)
        found += draws
        if len(draws) < piece:
            break
    assert list(cursor.draws) == limits
    assert Counter(draw.source for draw in found) == dict(enumerate(limits))
    assert mixture.draw(cursor, piece) == ([], cursor)
    tokens, drawn = [0] * len(sources), [0] * len(sources)
    for number, sample in found:
        tokens[number] += int(sources[number].lengths[sample])
        drawn[number] += 1
        going = [t for t, d, limit in zip(tokens, drawn, limits, strict=True) if d < limit]
        assert not going or max(going) - min(going) <= 2 * 30


def test_a_source_with_nothing_to_count_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' has no token to count"):
        Mixture([Source("a", np.ones(3, dtype=int), np.zeros(3, dtype=int))], [1], 0)


def test_small_sources_repeat_within_one_draw() -> None:
    mixture = Mixture([source("a", 2, 5, 5), source("b", 4000, 5, 5)], [1, 1], seed=0)
    draws, _ = mixture.draw(mixture.start(), 1000)
    row = [draw.sample for draw in draws if draw.source == 0]
    assert len(row) == 500
    assert all({row[n], row[n + 1]} == {0, 1} for n in range(0, 500, 2))


def test_an_epoch_holds_every_sample_once_and_epochs_differ() -> None:
    sources = [source("a", 37, 3, 9), source("b", 11, 3, 9)]
    mixture = Mixture(sources, [1, 1], seed=3)
    draws, _ = mixture.draw(mixture.start(), 600)
    for number, count in ((0, 37), (1, 11)):
        row = [draw.sample for draw in draws if draw.source == number]
        epochs = [row[start : start + count] for start in range(0, len(row) - count, count)]
        assert len(epochs) > 3
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_drawing_in_pieces_is_drawing_at_once(pieces: list[int]) -> None:
    def fresh() -> Mixture:
        return Mixture([source("a", 37, 3, 9), source("b", 11, 1, 90)], [1, 2.5], seed=3)

    mixture = fresh()
    whole, end = mixture.draw(mixture.start(), sum(pieces))
    cursor, found = fresh().start(), []
    for piece in pieces:
        draws, cursor = fresh().draw(cursor, piece)
        found += draws
    assert (found, cursor) == (whole, end)


def test_another_source_changes_no_order_within_the_others() -> None:
    a, b, c = source("a", 40, 3, 9), source("b", 30, 3, 9), source("c", 20, 3, 9)

    def order(sources: list[Source], name: str) -> list[int]:
        mixture = Mixture(sources, [1] * len(sources), seed=3)
        number = [one.name for one in sources].index(name)
        draws, _ = mixture.draw(mixture.start(), 300)
        return [draw.sample for draw in draws if draw.source == number][:60]

    assert order([a, b], "a") == order([c, b, a], "a")
    assert order([a, b], "b") == order([b, c], "b")


def test_seeds_matter() -> None:
    sources = [source("a", 40, 3, 9)]
    rows = {tuple(Mixture(sources, [1], seed).order(0, 0).tolist()) for seed in range(5)}
    assert len(rows) == 5


def test_weights_are_checked() -> None:
    assert check_weights({"a": 1, "b": 0}, ["a", "b"]) == {"a": 1.0}
    for weights, message in (
        ({"x": 1.0}, "no corpus 'x' in the data; it has a, b"),
        ({"a": -1.0}, "weight -1.0 is not a number of at least 0"),
        ({"a": float("nan")}, "weight nan is not"),
        ({"a": 0.0}, "no corpus has a weight above 0"),
    ):
        with pytest.raises(UserError, match=message):
            check_weights(weights, ["a", "b"])
