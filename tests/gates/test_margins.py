"""Paired tests at a margin: published numbers, exact error rates, and known cases."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from vila_core.eval.margins import MCNEMAR, STUDENT, TANGO, _Binary, _Units, margin_test
from vila_core.eval.significance import binomial_two_sided


def alone(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def binary(gained: int, lost: int, count: int) -> list[float]:
    return [1.0] * gained + [-1.0] * lost + [0.0] * (count - gained - lost)


def test_tangos_example() -> None:
    """Contact lenses, table 1: 44 pairs, none gained and one lost, margin 0.1: z = 1.709."""
    way = _Binary(0, 1, 44)
    assert (0 - 1 + 44 * 0.1) / (44 * way.error(-0.1)) == pytest.approx(1.709, abs=5e-4)
    corrected = (0 - 1 + 44 * 0.1 - 0.5) / (44 * way.error(-0.1))
    assert way.p_value(-0.1) == pytest.approx(0.5 * math.erfc(corrected / math.sqrt(2)))


def test_at_zero_it_is_mcnemars_test_of_one_side() -> None:
    found = margin_test(binary(15, 5, 100), alone(100), null=0.0, binary=True)
    assert found.test == MCNEMAR
    assert found.p == pytest.approx(binomial_two_sided(5, 20) / 2)
    assert margin_test(binary(0, 0, 100), alone(100), null=0.0, binary=True).p == 1.0
    stats = pytest.importorskip("scipy.stats")
    for gained, lost in ((15, 5), (0, 4), (300, 260), (1, 0)):
        expected = stats.binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue
        way = _Binary(gained, lost, 1000)
        assert way.p_value(0.0) == pytest.approx(expected, rel=1e-9)


def outcomes(count: int, gain: float, loss: float) -> Iterator[tuple[int, int, float]]:
    """Every (gained, lost) of `count` questions, with its probability."""
    logs = [math.lgamma(number + 1) for number in range(count + 1)]
    for gained in range(count + 1 if gain else 1):
        for lost in range(count - gained + 1 if loss else 1):
            same = count - gained - lost
            log = logs[count] - logs[gained] - logs[lost] - logs[same]
            log += gained * math.log(gain or 1) + lost * math.log(loss or 1)
            log += same * math.log(1 - gain - loss)
            if log > -30:
                yield gained, lost, math.exp(log)


@pytest.mark.parametrize("count", [20, 60, 120])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
def test_zeros_and_ones_are_wrong_no_more_often_than_promised(count: int, margin: float) -> None:
    """Exactly, over all outcomes: at the margin itself, whatever the share that is gained."""
    for gain in (0.0, 0.005, 0.02, 0.05, 0.2, 0.4):
        wrong = sum(
            probability
            for gained, lost, probability in outcomes(count, gain, gain + margin)
            if _Binary(gained, lost, count).p_value(-margin) < 0.05
        )
        assert wrong <= 0.05, f"gain {gain}"


def rate(sums: np.ndarray, counts: np.ndarray, null: float) -> float:
    """How often rows (R, U) of sums over units are found to be above `null` at 5%."""
    ways = (_Units.of(row, counts, 1.0) for row in sums)
    return sum(way.p_value(null) < 0.05 for way in ways) / len(sums)


@pytest.mark.parametrize("units", [12, 60, 240])
def test_units_are_wrong_no_more_often_than_promised(units: int) -> None:
    """By simulation, 1,000 each: rare losses of whole units, soft scores, units of any size."""
    draw = np.random.default_rng(units)
    sizes = draw.integers(1, 5, size=units).astype(float)
    twos = np.full(units, 2.0)
    within = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    for loss in (0.02, 0.05, 0.1):
        lost = -1.0 * (draw.random((1000, units)) < loss) * twos
        assert rate(lost, twos, -loss) <= within
        soft = np.clip(draw.normal(0, 0.3, (1000, units)), -0.9, 0.9) - loss
        assert rate(soft * sizes, sizes, -loss) <= within
        gains = draw.normal(loss, 0.2, (1000, units))
        assert rate(gains * twos, twos, loss) <= within


def test_it_finds_what_it_says_it_can_find() -> None:
    draw = np.random.default_rng(0)
    counts = np.full(400, 1.0)
    shape = np.clip(draw.normal(0, 0.3, (500, 400)), -0.9, 0.9)
    units = alone(400)
    least = margin_test(shape[0].tolist(), units, null=-0.05, binary=False).detectable()
    assert least is not None
    found = rate(shape - 0.05 + least, counts, -0.05)
    assert 0.7 < found < 0.9  # said: 0.8


def test_agrees_with_students_t_where_much_is_known() -> None:
    """Many units, a null near the mean: the mixture and the correction weigh little."""
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).normal(0.01, 0.2, 4000)
    ours = margin_test(values.tolist(), alone(4000), null=0.0, binary=False)
    theirs = stats.ttest_1samp(values, 0.0, alternative="greater")
    assert ours.test == STUDENT
    assert theirs.pvalue <= ours.p <= 10 * theirs.pvalue  # cautious, never bolder
    low = theirs.confidence_interval(0.95).low
    assert low - 6e-4 <= ours.low <= low


def test_no_difference_at_all_is_no_proof() -> None:
    """A Wald interval of zeros has no width; twenty questions can't rule out a loss of 5%."""
    for is_binary in (True, False):
        few = margin_test([0.0] * 20, alone(20), null=-0.05, binary=is_binary)
        assert few.p > 0.05
        assert few.low < -0.05
        many = margin_test([0.0] * 2000, alone(2000), null=-0.05, binary=is_binary)
        assert many.p < 1e-9
    assert margin_test([0.0], ["a"], null=-0.5, binary=False).p == 1.0


@pytest.mark.parametrize("is_binary", [True, False])
def test_bounds_and_p_value_agree(is_binary: bool) -> None:
    differences = binary(40, 30, 500)
    for null in (-0.03, -0.02, -0.01, -0.005, 0.005, 0.01):
        found = margin_test(differences, alone(500), null=null, binary=is_binary)
        assert (found.p < 0.05) == (found.low > null)
    assert found.low < found.mean < found.high
    mirrored = margin_test([-one for one in differences], alone(500), null=0.0, binary=is_binary)
    assert (mirrored.low, mirrored.high) == (
        pytest.approx(-found.high),
        pytest.approx(-found.low),
    )


def test_questions_of_one_unit_count_as_one() -> None:
    once = margin_test(binary(6, 2, 100), alone(100), null=-0.03, binary=True)
    again = [value for value in binary(6, 2, 100) for _ in range(4)]
    units = [str(number // 4) for number in range(400)]
    four = margin_test(again, units, null=-0.03, binary=True)
    assert (once.test, four.test) == (TANGO, STUDENT)
    assert once.p <= four.p <= 3 * once.p  # the same evidence, by a more cautious test
    assert margin_test(again, alone(400), null=-0.03, binary=True).p < once.p / 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"null": -1.0}, "no difference of scores"),
        ({"null": 0.0, "level": 0.4}, "between 0.5 and 1"),
        ({"null": 0.0, "differences": []}, "scores of units are needed"),
    ],
)
def test_what_is_no_test(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        margin_test(values.pop("differences", [0.0]), ["a"], binary=True, **values)
