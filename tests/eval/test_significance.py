"""Paired tests: against published examples, SciPy, and their own promise under no difference."""

from __future__ import annotations

import math
import random

import pytest

from vila_core.eval.significance import (
    binomial_two_sided,
    holm,
    mcnemar,
    minimum_detectable_effect,
    permutation,
)


@pytest.mark.parametrize("pair", [(0, 1), (0, 6), (1, 9), (7, 20), (10, 20), (480, 1_000), (5, 9)])
def test_binomial_is_scipys(pair: tuple[int, int]) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    assert binomial_two_sided(*pair) == pytest.approx(scipy_stats.binomtest(*pair).pvalue)


def test_binomial_by_hand_and_for_numbers_beyond_a_float() -> None:
    assert binomial_two_sided(0, 6) == 2 / 64
    assert binomial_two_sided(1, 8) == 2 * (1 + 8) / 256
    assert binomial_two_sided(0, 0) == binomial_two_sided(4, 8) == 1.0
    sigmas = (30_000 - 29_700) / math.sqrt(60_000 / 4)
    assert binomial_two_sided(29_700, 60_000) == pytest.approx(
        math.erfc(sigmas / math.sqrt(2)), rel=0.02
    )


def test_mcnemar_looks_at_disagreements_alone() -> None:
    first = [1.0] * 50 + [1.0] * 9 + [0.0] * 1 + [0.0] * 40
    second = [1.0] * 50 + [0.0] * 9 + [1.0] * 1 + [0.0] * 40
    assert mcnemar(first, second) == mcnemar(second, first) == 2 * (1 + 10) / 1024
    assert mcnemar(first, first) == 1.0
    with pytest.raises(ValueError, match="scores of 0 and 1"):
        mcnemar([0.3], [1.0])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        mcnemar([1.0], [1.0, 0.0])


def test_permutation_is_exact_for_few_units() -> None:
    # Fisher's "Design of Experiments", section 21: Darwin's maize, 15 pairs, in eighths of an inch.
    # 1,726 of the 32,768 sign patterns are as far from zero as what was found.
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert permutation(maize) == 1_726 / 32_768
    assert permutation([0.0, 0.0]) == permutation([]) == 1.0
    assert permutation([0.1, 0.2, 0.3, 0.0]) == 2 / 8  # sums in another order are as extreme


def test_permutation_of_zeros_and_ones_is_mcnemar() -> None:
    differences = [1.0] * 40 + [-1.0] * 20 + [0.0] * 100
    assert permutation(differences) == pytest.approx(binomial_two_sided(20, 60), abs=0.002)
    few = [1.0] * 9 + [-1.0] * 2
    assert permutation(few) == binomial_two_sided(2, 11)


def test_permutation_of_many_values_is_scipys() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = random.Random(4)
    # Some 400 distinct values and one that comes up 30 times: both ways of drawing signs.
    differences = [rng.gauss(0.07, 1.0) for _ in range(400)] + [0.5] * 30
    ours = permutation(differences)
    found = scipy_stats.permutation_test(
        (differences,), sum, permutation_type="samples", n_resamples=5_000, rng=1
    )
    assert ours == pytest.approx(found.pvalue, abs=0.015)
    assert 0 < permutation([abs(value) for value in differences]) < 1e-4
    assert permutation(differences) == ours


def test_permutation_keeps_its_promise_where_there_is_no_difference() -> None:
    rng = random.Random(5)
    found = [permutation([rng.choice((-1.0, 0.0, 1.0)) for _ in range(14)]) for _ in range(1_000)]
    assert sum(p <= 0.05 for p in found) <= 70
    assert sum(p <= 0.2 for p in found) > 60


def test_holm_by_hand() -> None:
    # Holm's own way: the least times 4, the next times 3, and so on, never falling.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_minimum_detectable_effect() -> None:
    assert minimum_detectable_effect(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert minimum_detectable_effect(0.5, power=0.9) == pytest.approx(0.5 * 3.241515, abs=1e-5)
    assert minimum_detectable_effect(1.0, comparisons=10) == pytest.approx(2.807034 + 0.841621)
    # Student's t with 2 degrees of freedom: 4.303 and 1.061 in any table.
    assert minimum_detectable_effect(1.0, freedom=2) == pytest.approx(4.303 + 1.061, abs=2e-3)
    assert minimum_detectable_effect(1.0, freedom=10_001) == minimum_detectable_effect(1.0)


def test_an_effect_of_that_size_is_found_four_times_in_five() -> None:
    rng = random.Random(6)
    count, disagree = 400, 0.3
    effect = minimum_detectable_effect(math.sqrt(disagree / count))
    gain = (disagree + effect) / 2
    found = 0
    for _ in range(400):
        draws = [rng.random() for _ in range(count)]
        won = sum(draw < gain for draw in draws)
        lost = sum(gain <= draw < disagree for draw in draws)
        found += binomial_two_sided(min(won, lost), won + lost) <= 0.05
    assert found / 400 == pytest.approx(0.8, abs=0.07)
