"""Paired tests at a margin: is the second model not worse, or better, by more than so much?

Differences are second minus first, question by question, in units that belong together. All tests
are one-sided, of "the mean difference is at most `null`" against "it is greater": non-inferiority
at a margin m takes null = -m, superiority null = 0 or what the gain must exceed.

Two tests, both of scores: the variance is the one that holds at the null, so that data without any
difference are no proof of anything (a Wald interval of them has no width).

- Scores of 0 or 1 and questions that stand alone: Tango's score test (T. Tango, Equivalence test
  and confidence interval for the difference in proportions for the paired-sample design,
  Statistics in Medicine 17, 1998, 891-908), with a continuity correction of half a question; at
  null 0 the exact binomial test of McNemar.
- Anything else: Student's t on sums over units, whose errors are those of a ratio (W. G. Cochran,
  Sampling Techniques, 1977, section 6.3). The variance at the null is that of the observed units
  mixed with as many units of the worst possible loss as move their mean to the null: the least
  favourable way of having such a mean, and for zeros and ones without a gain the same as Tango's.
  The same correction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vila_core.eval.bootstrap import Scores, Units, unit_sums
from vila_core.eval.significance import minimum_detectable_effect
from vila_core.eval.student import t_two_sided

TANGO, MCNEMAR, STUDENT = "Tango's score", "McNemar, exact", "Student's t over units"
_NORMAL = 2_000  # degrees of freedom from which Student's t is as good as normal
_STEPS = 40  # of bisection: an interval of width 2 to 2e-12


@dataclass(frozen=True)
class Margin:
    """A test of "greater than `null`" with what belongs to it.

    `low` and `high` are the one-sided confidence bounds at `level`; together they are a two-sided
    interval at 2 x level - 1. `low` is above `null` where p is below 1 - level. `error` is the
    standard error at the null, `freedom` its degrees of freedom (None: normal).
    """

    mean: float
    low: float
    high: float
    null: float
    level: float
    test: str
    p: float
    units: int
    error: float
    freedom: int | None

    def detectable(self, tests: int = 1, power: float = 0.8) -> float | None:
        """Return how far above `null` a true difference must lie to be found with `power`.

        `tests` share the threshold (Holm's first step). None where nothing differs.
        """
        if not self.error:
            return None
        return minimum_detectable_effect(
            self.error,
            level=2 * self.level - 1,
            power=power,
            comparisons=tests,
            freedom=self.freedom,
        )


def margin_test(
    differences: Scores,
    units: Units,
    *,
    null: float,
    level: float = 0.95,
    worst: float = 1.0,
    binary: bool,
) -> Margin:
    """Test that the mean of paired differences is greater than `null`.

    `worst` is the greatest loss that one question can bring (1 for scores from 0 to 1). `binary`
    says that the scores were 0 or 1. Raises ValueError for lists of different or no length, a null
    outside of what is possible, and a level outside of (0.5, 1).
    """
    if not 0.5 < level < 1:
        raise ValueError(f"a level lies between 0.5 and 1, not {level}")
    if not -worst < null < worst:
        raise ValueError(f"no difference of scores up to {worst} can be {null}")
    sums_U2 = unit_sums(differences, units)
    alone = binary and len(sums_U2) == len(differences)
    if alone:
        gained = int((np.asarray(differences) > 0).sum())
        lost = int((np.asarray(differences) < 0).sum())
        way: _Way = _Binary(gained, lost, len(differences))
    else:
        scale = max(worst, float(np.abs(differences).max()))
        way = _Units.of(sums_U2[:, 0], sums_U2[:, 1], scale)
    low = _bound(way.p_value, way.mean, 1 - level, way.worst)
    high = -_bound(way.mirrored().p_value, -way.mean, 1 - level, way.worst)
    exact = alone and null == 0
    return Margin(
        mean=way.mean,
        low=low,
        high=high,
        null=null,
        level=level,
        test=MCNEMAR if exact else TANGO if alone else STUDENT,
        p=way.p_value(null),
        units=len(sums_U2),
        error=way.error(null),
        freedom=None if alone or len(sums_U2) > _NORMAL else max(len(sums_U2) - 1, 1),
    )


class _Way(ABC):
    """A test that gives a p-value for every null."""

    mean: float
    worst: float

    @abstractmethod
    def p_value(self, null: float) -> float:
        """Return the probability of what was seen or more, were the mean difference the null."""

    @abstractmethod
    def error(self, null: float) -> float:
        """Return the standard error of the mean difference at the null."""

    @abstractmethod
    def mirrored(self) -> _Way:
        """Return the test with the models exchanged."""


class _Binary(_Way):
    def __init__(self, gained: int, lost: int, count: int) -> None:
        self.gained, self.lost, self.count = gained, lost, count
        self.mean, self.worst = (gained - lost) / count, 1.0

    def mirrored(self) -> _Binary:
        return _Binary(self.lost, self.gained, self.count)

    def p_value(self, null: float) -> float:
        if null == 0:
            return binomial_upper(self.gained, self.gained + self.lost)
        excess = self.gained - self.lost - self.count * null - 0.5
        error = self.count * self.error(null)
        return _normal_upper(excess / error) if error else float(excess <= 0)

    def error(self, null: float) -> float:
        """Tango's: from the share of losses that is likeliest when the difference is `null`."""
        n, gained, lost = self.count, self.gained, self.lost
        b = -gained - lost + (2 * n - gained + lost) * null
        c = -lost * null * (1 - null)
        losses = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        return math.sqrt(max(2 * losses + null * (1 - null), 0.0) / n)


@dataclass(frozen=True)
class _Units(_Way):
    """Sums over units: of differences s and counts m, and of their squares and product."""

    mean: float
    worst: float
    count: int
    s: float
    m: float
    ss: float
    sm: float
    mm: float

    @classmethod
    def of(cls, sums_U: np.ndarray, counts_U: np.ndarray, worst: float) -> _Units:
        s, m = math.fsum(sums_U), math.fsum(counts_U)
        squares = (float(a @ b) for a, b in ((sums_U, sums_U), (sums_U, counts_U)))
        ss, sm = squares
        return cls(s / m, worst, len(sums_U), s, m, ss, sm, float(counts_U @ counts_U))

    def mirrored(self) -> _Units:
        return _Units(
            -self.mean, self.worst, self.count, -self.s, self.m, self.ss, -self.sm, self.mm
        )

    def p_value(self, null: float) -> float:
        size = self.m / self.count
        excess = self.s - null * self.m - 0.5 * self.worst * size
        error = self.m * self.error(null)
        if not error:
            return float(excess <= 0)
        t, freedom = excess / error, self.count - 1
        if freedom < 1:
            return 1.0  # one unit knows nothing of its spread
        if freedom > _NORMAL:
            return _normal_upper(t)
        tail = t_two_sided(t, freedom) / 2
        return tail if t >= 0 else 1 - tail

    def error(self, null: float) -> float:
        n = self.count
        total = self.s - null * self.m  # of units whose mean is zero at the null
        mean = total / n
        spread = max((self.ss - 2 * null * self.sm + null * null * self.mm) / n - mean**2, 0.0)
        if mean > 0:
            loss = self.m / n * (self.worst + null)  # of a unit of the usual size that loses all
            share = mean / (mean + loss)
            spread = (1 - share) * (spread + mean**2) + share * loss**2
        correction = n / max(n - 1, 1)
        return math.sqrt(spread * n * correction) / self.m


def binomial_upper(heads: int, count: int) -> float:
    """Return P(at least `heads` heads in `count` tosses of a fair coin), exactly."""
    if heads <= 0:
        return 1.0
    ways = math.comb(count, heads)
    total = ways
    for tossed in range(heads, count):
        ways = ways * (count - tossed) // (tossed + 1)
        total += ways
    return total / 2**count  # of whole numbers: exact up to the last bit


def _normal_upper(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def _bound(p_value: Callable[[float], float], mean: float, alpha: float, worst: float) -> float:
    """Return the greatest null that is refused at `alpha`: p-values rise with the null."""
    low, high = -worst, min(mean, worst)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if p_value(middle) < alpha:
            low = middle
        else:
            high = middle
    return low
