"""Bootstrap intervals of any metric, over units: what is drawn are questions that belong together.

MME asks two questions about each image, MMBench each question with its options rotated. Answers to
these depend on each other; drawn one by one they would count as more evidence than they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vila_core.eval.benchmark import Grade, Question

MEAN_DRAWS, METRIC_DRAWS = 2_000, 1_000
_ASKED = 10_000_000  # questions that a metric is computed over in all draws together
_CELLS = 20_000_000  # of a block of draws, so that memory stays below some 200 MB

Scores = Sequence[float] | NDArray[np.float64]
"""One score per question."""

Units = Sequence[str] | NDArray[np.unsignedinteger]
"""What each question belongs to: by name, or by a number."""

Metrics = Callable[[Sequence[Question], Sequence[Grade]], Mapping[str, float]]


def unit_sums(scores: Scores, units: Units) -> NDArray[np.float64]:
    """Return (sum of scores, number of scores) of each unit, (U, 2), in the order of first sight.

    Raises ValueError for lists of different or no length.
    """
    if not len(scores) or len(scores) != len(units):
        raise ValueError(f"scores of units are needed, but {len(scores)} and {len(units)} came")
    places: dict[str | int, int] = {}
    names = units.tolist() if isinstance(units, np.ndarray) else units
    rows_N = np.array([places.setdefault(unit, len(places)) for unit in names])
    sums_U2 = np.zeros((len(places), 2), dtype=np.float64)
    sums_U2[:, 0] = np.bincount(rows_N, weights=np.asarray(scores, dtype=np.float64))
    sums_U2[:, 1] = np.bincount(rows_N)
    return sums_U2


def unit_interval(
    scores: Scores, units: Units, *, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Return `mean`, `low` and `high` of scores (or of paired differences), drawing units.

    A percentile bootstrap of the ratio of sums. How often each distinct unit comes up is a
    multinomial, so that the order makes no difference. Raises ValueError for lists of different or
    no length.
    """
    sums_U2 = unit_sums(scores, units)
    distinct_K2, counts_K = np.unique(sums_U2, axis=0, return_counts=True)
    total = len(sums_U2)
    rng = np.random.default_rng(seed)
    block = max(_CELLS // len(counts_K), 1)
    means: list[NDArray[np.float64]] = []
    for done in range(0, MEAN_DRAWS, block):
        size = min(block, MEAN_DRAWS - done)
        drawn_B2 = rng.multinomial(total, counts_K / total, size=size) @ distinct_K2
        means.append(drawn_B2[:, 0] / drawn_B2[:, 1])
    low, high = np.quantile(np.concatenate(means), ((1 - level) / 2, (1 + level) / 2))
    total_2 = counts_K @ distinct_K2
    return {"mean": float(total_2[0] / total_2[1]), "low": float(low), "high": float(high)}


def unit_error(scores: Scores, units: Units) -> float:
    """Return the standard error of the mean of scores (or of differences) over dependent units.

    The linearised error of a ratio; with units of one question it is that of a plain mean. 0.0 for
    a single unit, whose spread is not known.
    """
    sums_U2 = unit_sums(scores, units)
    count = len(sums_U2)
    if count < 2:
        return 0.0
    mean = sums_U2[:, 0].sum() / sums_U2[:, 1].sum()
    residuals_U = sums_U2[:, 0] - mean * sums_U2[:, 1]
    spread = np.sqrt((residuals_U**2).sum() * count / (count - 1))
    return float(spread / sums_U2[:, 1].sum())


def metric_intervals(
    questions: Sequence[Question],
    grades: Sequence[Grade],
    metrics: Metrics,
    *,
    level: float = 0.95,
    draws: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Return `value`, `low` and `high` of every metric, for metrics that are no means (F1, CIDEr).

    Each draw calls `metrics`; there are 1,000, and down to 200 of benchmarks with more than 10,000
    questions, unless `draws` says so. A question that is drawn again comes with a key and unit of
    its own (`key#2`), so that a metric which groups questions sees two groups. A metric that half
    of the draws lack (of a rare category) gets no interval. Raises ValueError for lists of
    different or no length.
    """
    if not questions or len(questions) != len(grades):
        raise ValueError(f"{len(questions)} questions and {len(grades)} grades are no pairs")
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault(question.unit or question.key, []).append(index)
    copies = [[[questions[index] for index in members]] for members in groups.values()]
    grades_of = [[grades[index] for index in members] for members in groups.values()]
    if draws is None:
        draws = min(max(_ASKED // len(questions), METRIC_DRAWS // 5), METRIC_DRAWS)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn_questions: list[Question] = []
        drawn_grades: list[Grade] = []
        times_U = np.bincount(rng.integers(len(copies), size=len(copies)), minlength=len(copies))
        for made, graded, times in zip(copies, grades_of, times_U.tolist(), strict=True):
            while len(made) < times:  # copies are made once, for all draws
                made.append([_copy(question, len(made) + 1) for question in made[0]])
            for copy in made[:times]:
                drawn_questions += copy
                drawn_grades += graded
        for key, value in metrics(drawn_questions, drawn_grades).items():
            found.setdefault(key, []).append(value)
    intervals = {}
    for key, value in metrics(questions, grades).items():
        if len(found.get(key, ())) > draws / 2:
            low, high = np.quantile(found[key], ((1 - level) / 2, (1 + level) / 2))
            intervals[key] = {"value": float(value), "low": float(low), "high": float(high)}
    return intervals


def _copy(question: Question, number: int) -> Question:
    """Return the question under a name of its own, as if it were another one."""
    name = f"#{number}"
    unit = question.unit + name if question.unit else ""
    return dataclasses.replace(question, key=question.key + name, unit=unit)
