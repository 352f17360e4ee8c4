"""Paired tests between two models on the same questions, and what they could have found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from vila_core.eval.student import t_quantile

PERMUTATIONS = 20_000
_ENUMERATED = 16  # units whose signs are all tried, 2^16 of them
_NORMAL = 10_000  # degrees of freedom from which Student's t is as good as normal
_BLOCK = 200  # distinct differences whose signs are drawn at once


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Return McNemar's exact two-sided p-value for scores of 0 or 1, question by question.

    Only questions that one model gets right and the other wrong say anything; under the hypothesis
    that both are equally good, these are tosses of a fair coin. Raises ValueError for other scores
    or lists of different length.
    """
    if any(score not in (0, 1) for scores in (first, second) for score in scores):
        raise ValueError("McNemar's test is for scores of 0 and 1; use `permutation`")
    gained = sum(a > b for a, b in zip(first, second, strict=True))
    lost = sum(a < b for a, b in zip(first, second, strict=True))
    return binomial_two_sided(min(gained, lost), gained + lost)


def binomial_two_sided(fewer: int, count: int) -> float:
    """Return the exact two-sided p-value of `fewer` heads in `count` tosses of a fair coin."""
    if 2 * fewer >= count:
        return 1.0
    ways, total = 1, 1
    for heads in range(1, fewer + 1):
        ways = ways * (count - heads + 1) // heads
        total += ways
    return 2 * total / 2**count  # of whole numbers: exact up to the last bit, however large


def permutation(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided p-value of a paired permutation test on differences of units.

    Under the hypothesis that both models are equally good, each difference might as well have the
    other sign. Up to 16 units that differ, all signs are tried (exact); beyond, 20,000 are drawn,
    and the p-value counts the observed one among them, so that it is never zero.
    """
    sizes_K, counts_K = np.unique(
        np.abs([value for value in differences if value]), return_counts=True
    )
    if not len(sizes_K):
        return 1.0
    observed = abs(math.fsum(differences))
    close = observed * (
        1 - 1e-9
    )  # sums of the same numbers in another order differ in the last bit
    if counts_K.sum() <= _ENUMERATED:
        sums = np.zeros(1)
        for size in np.repeat(sizes_K, counts_K):
            sums = np.concatenate([sums + size, sums - size])
        return float(np.mean(np.abs(sums) >= close))
    rng = np.random.default_rng(seed)
    sums = np.zeros(PERMUTATIONS)
    once = counts_K == 1  # most of a metric with many values: a bit each is ten times as fast
    for sizes, counts in ((sizes_K[once], None), (sizes_K[~once], counts_K[~once])):
        for start in range(0, len(sizes), _BLOCK):
            part = slice(start, start + _BLOCK)
            shape = (PERMUTATIONS, len(sizes[part]))
            if counts is None:
                signs_PK = 2.0 * rng.integers(0, 2, size=shape, dtype=np.int8) - 1.0
            else:
                signs_PK = 2.0 * rng.binomial(counts[part], 0.5, size=shape) - counts[part]
            sums += signs_PK @ sizes[part]
    return float((1 + np.sum(np.abs(sums) >= close)) / (1 + PERMUTATIONS))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values by name: below 0.05, that one is significant.

    The chance of one or more false findings among all of them stays below the threshold, however
    the tests depend on each other.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(p * (len(p_values) - rank), 1.0))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def minimum_detectable_effect(
    error: float,
    *,
    level: float = 0.95,
    power: float = 0.8,
    comparisons: int = 1,
    freedom: int | None = None,
) -> float:
    """Return the least true difference that a two-sided test finds with probability `power`.

    `error` is the standard error of the difference. `comparisons` is the number of tests that share
    the threshold (Holm's first step). `freedom` are the degrees of freedom where the error was
    estimated from few values, such as seeds less one; then by Student's t.
    """
    tail = 1 - (1 - level) / (2 * comparisons)
    if freedom is None or freedom > _NORMAL:
        normal = NormalDist()
        return error * (normal.inv_cdf(tail) + normal.inv_cdf(power))
    return error * (t_quantile(tail, freedom) + t_quantile(power, freedom))
