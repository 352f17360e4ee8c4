"""How sure a mean is: standard errors, and intervals over questions and over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vila_core.eval.bootstrap import unit_interval
from vila_core.eval.student import t_quantile


def standard_error(mean: float, count: int) -> float:
    """Return the binomial standard error of a share of `count` questions."""
    return math.sqrt(max(mean * (1 - mean), 0.0) / count)


def paired_interval(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Return `mean`, `low` and `high` of first minus second, question by question.

    A bootstrap over the questions, each a unit of its own. Raises ValueError for lists of different
    or no length.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"pairs are needed, but there are {len(first)} and {len(second)} scores")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    units = [str(number) for number in range(len(differences))]
    return unit_interval(differences, units, level=level, seed=seed)


def seed_interval(differences: Sequence[float], *, level: float = 0.95) -> dict[str, float]:
    """Return `mean`, `low` and `high` of one difference per seed, by Student's t.

    With two seeds the interval is 12.7 standard errors wide to each side, with three 4.3: few seeds
    resolve only large effects. Raises ValueError for fewer than two seeds, which have no spread.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"an interval over seeds needs at least two, not {count}")
    mean = math.fsum(differences) / count
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / (count - 1))
    half = t_quantile((1 + level) / 2, count - 1) * spread / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}
