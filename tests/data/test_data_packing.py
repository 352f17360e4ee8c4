from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila_core.data.binpack import best_fit, exact_fit
from vila_core.data.mixture import Draw, Mixture, Source
from vila_core.data.packing import Pack, Planner, PlanState, deal, pack_window

ITEMS = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 8)), min_size=1, max_size=120)


@given(ITEMS, st.integers(100, 300), st.integers(8, 30))
@settings(max_examples=200, deadline=None)
def test_every_item_is_in_one_pack_and_budgets_hold(
    items: list[tuple[int, int]], tokens: int, images: int
) -> None:
    lengths, counts = [item[0] for item in items], [item[1] for item in items]
    packs = pack_window(lengths, counts, tokens, images)
    assert sorted(itertools.chain(*packs)) == list(range(len(items)))
    for pack in packs:
        assert pack == sorted(pack)
        assert sum(lengths[n] for n in pack) <= tokens
        assert sum(counts[n] for n in pack) <= images
    # No two packs could be one: each pair is over a budget.
    sums = [(sum(lengths[n] for n in pack), sum(counts[n] for n in pack)) for pack in packs]
    for one, other in itertools.combinations(sums, 2):
        assert one[0] + other[0] > tokens or one[1] + other[1] > images


def test_packs_are_nearly_full() -> None:
    """75 % captions, 25 % documents, as in the padding comparison: below 2 % empty."""
    rng = np.random.default_rng(0)
    short = rng.integers(50, 80, size=750)
    lengths = np.concatenate([short, rng.integers(80, 720, size=250)])
    packs = pack_window(lengths.tolist(), [1] * len(lengths), 2048, 100)
    assert lengths.sum() / (len(packs) * 2048) > 0.98


def vila_mix(count: int, seed: int) -> tuple[list[int], list[int]]:
    """35 % captions, 35 % conversations, 20 % of 2 to 5 images, 10 % text; 196 tokens an image."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, size=count, p=[0.35, 0.35, 0.2, 0.1])
    images = np.array([1, 1, 0, 0])[kind] + (kind == 2) * rng.integers(2, 6, size=count)
    text = rng.lognormal(np.log(np.array([1, 350, 300, 600])[kind]), 0.8).astype(int)
    text = np.where(kind == 0, rng.integers(10, 60, size=count), np.maximum(text, 5))
    return np.minimum(text + 196 * images, 4096).tolist(), images.tolist()


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_window_of_1024_of_vilas_mix_is_as_full_as_its_total_allows(seed: int) -> None:
    """At most one pack more than the total needs."""
    lengths, images = vila_mix(1024, seed)
    packs = pack_window(lengths, images, 4096, 18)
    assert sorted(itertools.chain(*packs)) == list(range(1024))
    assert len(packs) <= -(-sum(lengths) // 4096) + 1


def test_fill_of_vilas_mix_is_above_99_4_percent() -> None:
    lengths, images = vila_mix(20 * 1024, 0)
    windows = [slice(at, at + 1024) for at in range(0, len(lengths), 1024)]
    count = sum(len(pack_window(lengths[at], images[at], 4096, 18)) for at in windows)
    assert sum(lengths) / (4096 * count) > 0.994


def test_closing_pairs_fill_packs_exactly() -> None:
    lengths = [60, 50, 30, 10, 30, 20]  # best fit: 60+30+10, 50+30+20; here in the same number
    packs = pack_window(lengths, [0] * 6, 100, 0)
    assert sorted(sum(lengths[n] for n in pack) for pack in packs) == [100, 100]


def test_of_two_equal_items_one_is_not_taken_twice() -> None:
    packs = exact_fit([70, 15, 40], [0, 0, 0], 100, 0)
    assert sorted(map(sorted, packs)) == [[0, 1], [2]]


def test_where_best_fit_needs_fewer_packs_its_plan_is_taken() -> None:
    rng = np.random.default_rng(0)
    better = 0
    for _ in range(300):
        lengths = rng.integers(20, 70, size=12).tolist()
        images = rng.integers(0, 6, size=12).tolist()
        ways = [len(way(lengths, images, 100, 8)) for way in (exact_fit, best_fit)]
        assert len(pack_window(lengths, images, 100, 8)) == min(ways)
        better += ways[1] < ways[0]
    assert better


def test_the_image_budget_is_filled_too() -> None:
    lengths, images = [10] * 64, [4] * 64
    packs = pack_window(lengths, images, 1000, 16)
    assert len(packs) == 16


def test_no_images_at_all() -> None:
    assert pack_window([3, 3], [0, 0], 6, 0) == [[0, 1]]


@pytest.mark.parametrize("item", [(11, 0), (1, 5)])
def test_items_over_a_budget_are_refused(item: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is over the budget"):
        pack_window([item[0]], [item[1]], 10, 4)


def planner(seed: int = 0, window: int = 20) -> Planner:
    rng = np.random.default_rng(1)
    sources = [
        Source("a", rng.integers(3, 60, size=50)),
        Source("b", rng.integers(20, 90, size=31)),
    ]
    images = [rng.integers(0, 4, size=50), np.zeros(31, dtype=int)]
    mixture = Mixture(sources, [2, 1], seed)
    return Planner(mixture, images, pack_tokens=100, pack_images=6, window=window, seed=seed)


def first(
    count: int, state: PlanState | None = None, seed: int = 0
) -> list[tuple[Pack, PlanState]]:
    plan = planner(seed)
    return list(itertools.islice(plan.packs(state or plan.start()), count))


def test_a_plan_continues_from_any_pack() -> None:
    whole = first(80)
    assert [pack.number for pack, _ in whole] == list(range(80))
    for place in range(60):
        state = PlanState.from_json(whole[place][1].to_json())
        assert first(19, state) == whole[place + 1 : place + 20]


def test_packs_hold_the_mixtures_draws_and_nothing_else() -> None:
    plan = planner()
    draws, _ = plan.mixture.draw(plan.mixture.start(), 100)
    packs = [pack for pack, state in first(200) if state.window < 5 or state.taken == 0]
    found = [draw for pack in packs for draw in pack.draws][:100]
    windows = [sorted(draws[n : n + 20]) for n in range(0, 100, 20)]
    assert [sorted(found[n : n + 20]) for n in range(0, 100, 20)] == windows


def test_packs_of_a_window_are_shuffled() -> None:
    """Else the longest samples would always come first, and the emptiest pack last."""
    plan = planner(window=500)
    packs = [pack for pack, _ in itertools.islice(plan.packs(plan.start()), 100)]
    longest = [max(plan._lengths[s][n] for s, n in pack.draws) for pack in packs]
    half = len(longest) // 2
    assert abs(np.mean(longest[:half]) - np.mean(longest[half:])) < 10


@pytest.mark.parametrize("by", ["tokens", "supervised"])
def test_after_10000_packs_shares_are_within_half_a_percent(by: str) -> None:
    """At any pack from there on, inside a window or at its end."""
    rng = np.random.default_rng(2)
    shapes = {"captions": (60, 0.2), "documents": (500, 1.0), "text": (150, 0.5)}
    sources, supervised = [], []
    for name, (length, part) in shapes.items():
        lengths = rng.integers(length // 2, 2 * length, size=900)
        supervised.append(np.maximum(lengths * part * rng.random(900), 1).astype(int))
        sources.append(Source(name, lengths, supervised[-1] if by == "supervised" else None))
    mixture = Mixture(sources, [0.5, 0.3, 0.2], seed=0)
    images = [np.zeros(900, dtype=int)] * 3
    plan = Planner(mixture, images, pack_tokens=1024, pack_images=0, window=512, seed=0)
    found = np.zeros(3)
    for number, (pack, state) in enumerate(plan.packs(plan.start()), start=1):
        for source, sample in pack.draws:
            found[source] += sources[source].counts[sample]
        if number >= 10_000:
            assert np.abs(found / found.sum() - mixture.shares).max() < 0.005
        if number == 10_300:
            assert state.packs == number
            break


def test_a_plan_ends_with_its_mixture() -> None:
    source = Source("a", np.full(10, 30), max_epochs=2.5)
    plan = Planner(
        Mixture([source], [1], 0),
        [np.zeros(10, dtype=int)],
        pack_tokens=100,
        pack_images=0,
        window=8,
        seed=0,
    )
    packs = [pack for pack, _ in plan.packs(plan.start())]
    assert sum(len(pack.draws) for pack in packs) == 25


def test_seeds_give_other_plans() -> None:
    assert first(5, seed=0) != first(5, seed=1)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=10), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_dealing_is_even(costs: list[int], world: int) -> None:
    packs = [Pack(n, (Draw(0, n),), cost, 0) for n, cost in enumerate(costs * world)]
    hands = deal(packs, world)
    assert {len(hand) for hand in hands} == {len(costs)}
    assert sorted(pack.number for hand in hands for pack in hand) == list(range(len(packs)))
    assert all([p.number for p in hand] == sorted(p.number for p in hand) for hand in hands)
    loads = [sum(pack.num_tokens for pack in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(costs)
