"""Student's t distribution for whole degrees of freedom, so that nothing here needs SciPy."""

from __future__ import annotations

import math


def central_probability(t: float, freedom: int) -> float:
    """Return P(|T| <= t) for `freedom` degrees of freedom, t >= 0.

    The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4. Raises ValueError for degrees of
    freedom below one.
    """
    if freedom < 1:
        raise ValueError(f"degrees of freedom must be at least 1, not {freedom}")
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 if odd else 1, freedom, 2):  # one term per power of the cosine below freedom
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(probability: float, freedom: int) -> float:
    """Return t with P(T <= t) = `probability`, by bisection to the last bits of a float.

    Raises ValueError for a probability outside of (0, 1), or degrees of freedom below one.
    """
    if not 0 < probability < 1:
        raise ValueError(f"a probability lies between 0 and 1, not {probability}")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    central = 2 * probability - 1
    high = 1.0
    while central_probability(high, freedom) < central:
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        if central_probability(middle, freedom) < central:
            low = middle
        else:
            high = middle
    return high


def t_two_sided(t: float, freedom: int) -> float:
    """Return P(|T| >= |t|), the two-sided p-value of a t statistic."""
    return max(1 - central_probability(abs(t), freedom), 0.0)
