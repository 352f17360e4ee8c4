"""Student's t against the published table (Abramowitz and Stegun, table 26.10), and SciPy."""

from __future__ import annotations

import math

import pytest

from vila_core.eval.stats import seed_interval
from vila_core.eval.student import central_probability, t_quantile, t_two_sided


@pytest.mark.parametrize(
    ("freedom", "at_95", "at_99"),
    [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (9, 2.262, 3.250),
        (10, 2.228, 3.169),
        (30, 2.042, 2.750),
        (120, 1.980, 2.617),
    ],
)
def test_quantiles_of_the_table(freedom: int, at_95: float, at_99: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(at_95, abs=5e-4)
    assert t_quantile(0.995, freedom) == pytest.approx(at_99, abs=5e-4)
    assert t_quantile(0.025, freedom) == -t_quantile(0.975, freedom)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 17, 64, 999])
@pytest.mark.parametrize("probability", [0.5001, 0.6, 0.9, 0.975, 0.9999])
def test_quantiles_of_scipy(freedom: int, probability: float) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = float(scipy_stats.t.ppf(probability, freedom))
    assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9)
    assert t_two_sided(expected, freedom) == pytest.approx(2 * (1 - probability), rel=1e-8)


def test_one_degree_of_freedom_is_cauchy() -> None:
    assert central_probability(1.0, 1) == pytest.approx(0.5)
    assert t_quantile(0.75, 1) == pytest.approx(1.0)
    assert t_quantile(0.5, 3) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_what_has_no_quantile(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="not"):
        t_quantile(probability, freedom)


def test_interval_over_three_seeds() -> None:
    found = seed_interval([0.30, 0.40, 0.50])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found == {
        "mean": pytest.approx(0.4),
        "low": pytest.approx(0.4 - half, abs=1e-6),
        "high": pytest.approx(0.4 + half, abs=1e-6),
    }
    narrower = seed_interval([0.30, 0.40, 0.50], level=0.5)
    assert found["low"] < narrower["low"] < 0.4 < narrower["high"] < found["high"]
    assert seed_interval([0.2, 0.2]) == {"mean": 0.2, "low": 0.2, "high": 0.2}


@pytest.mark.parametrize("differences", [[], [0.3]])
def test_one_seed_has_no_interval(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        seed_interval(differences)
