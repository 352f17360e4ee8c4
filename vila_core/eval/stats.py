"""How sure a mean is: standard errors, and paired bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BOOTSTRAPS = 2_000


def standard_error(mean: float, count: int) -> float:
    """Return the binomial standard error of a share of `count` questions."""
    return math.sqrt(max(mean * (1 - mean), 0.0) / count)


def paired_interval(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Return `mean`, `low` and `high` of first minus second, question by question.

    A percentile bootstrap over the questions. What is drawn is how often each distinct difference
    comes up, a multinomial: that is the same as drawing questions, needs memory for the distinct
    differences alone, and does not depend on the order of the questions. Raises ValueError for
    lists of different or no length.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"pairs are needed, but there are {len(first)} and {len(second)} scores")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    values_K, counts_K = np.unique(differences, return_counts=True)
    total = len(differences)
    draws_BK = np.random.default_rng(seed).multinomial(total, counts_K / total, size=BOOTSTRAPS)
    means_B = draws_BK @ values_K / total
    low, high = np.quantile(means_B, ((1 - level) / 2, (1 + level) / 2))
    return {"mean": float(counts_K @ values_K / total), "low": float(low), "high": float(high)}
