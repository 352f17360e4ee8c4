"""The rule of the verdicts, and what is computed over seeds."""

import pytest

from vila_ops.reproduce.results import Spread, judge


def spread(*values: float) -> Spread:
    return Spread.of(values, 0.95)


def test_the_interval_is_students_t():
    found = spread(0.1, 0.2, 0.3)
    assert found.mean == pytest.approx(0.2)
    assert found.std == pytest.approx(0.1)
    half = 4.302653 * 0.1 / 3**0.5  # t at 97.5%, two degrees of freedom
    assert found.low == pytest.approx(0.2 - half, abs=1e-6)
    assert found.high == pytest.approx(0.2 + half, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "paper", "smallest", "verdict"),
    [
        ((0.7, 0.8, 0.75), "above", 0.3, "reproduced"),
        ((0.7, 0.8, 0.75), "below", 0.3, "opposite"),
        ((-0.7, -0.8, -0.75), "below", 0.3, "reproduced"),
        ((0.20, 0.21, 0.22), "above", 0.3, "not resolved"),  # resolved, but too small
        ((0.9, 0.1, 0.5), "above", 0.3, "not resolved"),  # large, but the interval holds 0
        ((-0.02, -0.021, -0.022), "above", 0.3, "opposite"),  # however small
        ((0.0, 0.0, 0.0), "above", 0.3, "not resolved"),
        ((0.01, -0.01, 0.0), "same", 0.1, "reproduced"),
        ((0.1, -0.1, 0.0), "same", 0.1, "not resolved"),
        ((0.50, 0.51, 0.52), "same", 0.1, "opposite"),
        ((-0.50, -0.51, -0.52), "same", 0.1, "opposite"),
    ],
)
def test_the_rule(values: tuple[float, ...], paper: str, smallest: float, verdict: str):
    assert judge(spread(*values), paper, smallest) == verdict
