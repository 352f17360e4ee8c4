"""The in-context-learning curve: points, slope and intervals against values worked out by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from vila_core.eval.curve import control_gap, curve, curves, slope_weights
from vila_core.eval.stats import seed_interval

UNITS = [f"q{number}" for number in range(100)]


def share(right: int) -> list[float]:
    return [1.0] * right + [0.0] * (100 - right)


def test_points_are_means_of_trials_and_the_spread_is_told_apart() -> None:
    trials = {
        (0, 0, 0): share(30),
        (1, 0, 0): share(38),
        (1, 1, 0): share(42),
        (3, 0, 0): share(50),
        (3, 0, 1): share(54),
        (3, 1, 0): share(46),
        (3, 1, 1): share(50),
    }
    found = curve(trials, UNITS)
    zero, one, three = found.points
    assert [point.mean for point in found.points] == pytest.approx([0.3, 0.4, 0.5])
    assert zero.over_seeds is None
    assert zero.over_orders is None
    assert one.over_seeds == pytest.approx(0.04 / np.sqrt(2))
    assert one.over_orders is None
    assert three.over_seeds == pytest.approx(0.04 / np.sqrt(2))
    assert three.over_orders == pytest.approx(0.04 / np.sqrt(2))
    assert zero.low == pytest.approx(0.3 - 1.96 * 0.0458, abs=0.012)
    assert [trial["mean"] for trial in three.trials] == [0.5, 0.54, 0.46, 0.5]
    # log2(1 + shots) is 0, 1, 2: a gain of 0.1 each.
    assert found.slope is not None
    assert found.slope["mean"] == pytest.approx(0.1)
    assert found.slope["low"] < 0.1 < found.slope["high"]
    assert found.gain is not None
    assert found.gain["mean"] == pytest.approx(0.2)
    assert found.slope_over_seeds == pytest.approx(seed_interval([0.11, 0.09]))


def test_slope_weights_are_those_of_a_line() -> None:
    shots = [0, 1, 2, 4, 8, 16]
    values = [0.31, 0.36, 0.40, 0.39, 0.47, 0.5]
    expected = np.polyfit(np.log2(1 + np.array(shots)), values, 1)[0]
    assert slope_weights(shots) @ values == pytest.approx(expected)


def test_one_number_of_shots_has_no_slope() -> None:
    found = curve({(0, 0, 0): share(30)}, UNITS, headline={(0, 0, 0): 61.5})
    assert found.slope is found.gain is found.slope_over_seeds is None
    assert found.points[0].headline == 61.5
    assert found.as_json()["points"][0]["trials"] == ({"seed": 0, "order": 0, "mean": 0.3},)


@pytest.mark.parametrize("trials", [{}, {(0, 0, 0): [1.0]}])
def test_what_is_no_curve(trials: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="trial"):
        curve(trials, UNITS)


def test_the_interval_of_the_slope_covers_the_luck_of_demonstrations() -> None:
    """Many evaluations of a model whose slope is known: the interval holds it 95 times in 100."""
    rng = np.random.default_rng(7)
    weights = slope_weights([0, 2])
    true = float(weights @ np.array([0.3, 0.5]))
    covered = 0
    for _ in range(200):
        skill = rng.normal(0, 0.15, 150)
        trials = {
            (0, 0, 0): (rng.random(150) < 0.3 + skill).astype(float).tolist(),
            (2, 0, 0): (rng.random(150) < 0.5 + skill).astype(float).tolist(),
        }
        slope = curve(trials, [str(number) for number in range(150)]).slope
        assert slope is not None
        covered += slope["low"] <= true <= slope["high"]
    assert covered >= 180


def rows(condition: str, shots: int, right: int, seed: int = 0) -> list[dict[str, Any]]:
    made = [
        {"key": key, "condition": condition, "shots": shots, "seed": seed, "score": score}
        for key, score in zip(UNITS, share(right), strict=True)
    ]
    random.Random(right).shuffle(made)
    return made


def test_curves_from_records() -> None:
    records = [
        *rows("seen", 0, 30),
        *rows("blind", 0, 25),
        *rows("seen", 4, 60),
        *rows("text_demos", 4, 45),
    ]
    found = curves(records)
    assert found.keys() == {"seen", "text_demos"}
    control = found["text_demos"]
    assert [(point.shots, point.mean) for point in control.points] == [(0, 0.3), (4, 0.45)]
    gap = control_gap(records, "text_demos")
    assert gap.keys() == {4}
    assert gap[4]["mean"] == pytest.approx(0.15)
    assert 0 < gap[4]["low"] < 0.15 < gap[4]["high"]
    assert control_gap(records[:100], "text_demos") == {}


def test_records_that_are_no_curve() -> None:
    assert curves([]) == {}
    assert curves([{**rows("seen", 0, 3)[0], "score": None}]) == {}
    with pytest.raises(ValueError, match="not of the same questions"):
        curves([*rows("seen", 0, 30), *rows("seen", 4, 60)[1:]])
