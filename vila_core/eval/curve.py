"""The in-context-learning curve: the score by number of demonstrations, and its slope.

Demonstrations are drawn for each question by itself, so what luck they bring is part of the spread
between questions: the intervals over questions cover it. Intervals over seeds are there beside
them, for what questions share (the pool that demonstrations come from).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vila_core.eval.bootstrap import Scores, Units, unit_interval
from vila_core.eval.records import BLIND, SEEN
from vila_core.eval.stats import seed_interval

Round = tuple[int, int, int]
"""Shots, seed and order."""

Interval = Mapping[str, float]


@dataclass(frozen=True)
class Point:
    """The score at one number of shots: mean of all trials, and its interval over questions.

    `over_seeds` and `over_orders` are the standard deviations between seeds (orders averaged) and
    between orders of the same demonstrations; None where there is one of them. `headline` is the
    benchmark's own metric, averaged over trials.
    """

    shots: int
    mean: float
    low: float
    high: float
    over_seeds: float | None
    over_orders: float | None
    trials: tuple[Mapping[str, float], ...]  # seed, order, mean
    headline: float | None = None


@dataclass(frozen=True)
class Curve:
    """Points by shots. `slope` is the gain in score per doubling of 1 + shots.

    A least-squares line through the points over log2(1 + shots). `slope` and `gain` (most shots
    minus fewest) have intervals over questions, `slope_over_seeds` one over seeds; None where there
    are too few shots or seeds for it.
    """

    points: tuple[Point, ...]
    slope: Interval | None
    slope_over_seeds: Interval | None
    gain: Interval | None
    questions: int

    def as_json(self) -> dict[str, Any]:
        """Return the curve as a JSON-able mapping."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Curve:
        """Return the curve that `as_json` gave."""
        points = [Point(**{**point, "trials": tuple(point["trials"])}) for point in value["points"]]
        return cls(**{**value, "points": tuple(points)})


def curve(
    trials: Mapping[Round, Scores],
    units: Units,
    *,
    headline: Mapping[Round, float] | None = None,
    level: float = 0.95,
) -> Curve:
    """Make the curve of one benchmark from every trial's score per question.

    Scores of all trials are of the same questions in the same order; `units` are what the bootstrap
    draws. Without shots there is one trial, which belongs to every seed. Raises ValueError for no
    trials, or trials of different length.
    """
    if not trials:
        raise ValueError("a curve needs one trial or more")
    scores = {each: np.asarray(trials[each], dtype=np.float64) for each in sorted(trials)}
    if any(len(score_Q) != len(units) for score_Q in scores.values()):
        raise ValueError("every trial must have a score for each question")
    shots = sorted({each[0] for each in scores})
    mean_SQ = np.stack([_mean(scores, count) for count in shots])
    points = tuple(
        _point(count, scores, mean_Q, units, headline, level)
        for count, mean_Q in zip(shots, mean_SQ, strict=True)
    )
    slope = gain = over_seeds = None
    if len(shots) > 1:
        weights_S = slope_weights(shots)
        slope = unit_interval((weights_S @ mean_SQ).tolist(), units, level=level)
        gain = unit_interval((mean_SQ[-1] - mean_SQ[0]).tolist(), units, level=level)
        slopes = [
            float(weights_S @ [_mean(scores, count, seed).mean() for count in shots])
            for seed in _common_seeds(scores)
        ]
        over_seeds = seed_interval(slopes, level=level) if len(slopes) > 1 else None
    return Curve(points, slope, over_seeds, gain, len(units))


def slope_weights(shots: Sequence[int]) -> NDArray[np.float64]:
    """Return the weights (S,) of the least-squares slope over log2(1 + shots)."""
    x_S = np.log2(1.0 + np.asarray(shots, dtype=np.float64))
    centred_S = x_S - x_S.mean()
    return centred_S / (centred_S @ centred_S)


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """Return the curves by condition from the records of one benchmark, blind ones left out.

    Controls begin at the same point without demonstrations. Nothing where a score is not known.
    Raises ValueError where the rounds are not of the same questions.
    """
    by_condition, units = _rounds(rows)
    if not by_condition:
        return {}
    start = {each: scores for each, scores in by_condition[SEEN].items() if not each[0]}
    return {condition: curve(start | trials, units) for condition, trials in by_condition.items()}


def control_gap(rows: Iterable[Mapping[str, Any]], control: str) -> dict[int, Interval]:
    """Return by shots how much the score with demonstrations lies above that of a control.

    For text-only demonstrations: what their images bring. Paired by question, with intervals over
    questions.
    """
    by_condition, units = _rounds(rows)
    if control not in by_condition:
        return {}
    seen, other = by_condition[SEEN], by_condition[control]
    gaps = {}
    for shots in sorted({each[0] for each in other} & {each[0] for each in seen}):
        differences_Q = _mean(seen, shots) - _mean(other, shots)
        gaps[shots] = unit_interval(differences_Q.tolist(), units)
    return gaps


def _rounds(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, dict[Round, NDArray[np.float64]]], list[str]]:
    """Return {condition: {round: scores}} and the units, all in the order of the first round."""
    found: dict[str, dict[Round, dict[str, float]]] = {}
    units: dict[str, str] = {}
    for row in rows:
        if row["condition"] == BLIND:
            continue
        if row["score"] is None:
            return {}, []
        asked = (row["shots"], row.get("seed", 0), row.get("order", 0))
        found.setdefault(row["condition"], {}).setdefault(asked, {})[row["key"]] = row["score"]
        units.setdefault(row["key"], row.get("unit") or row["key"])
    if SEEN not in found:
        return {}, []
    for rounds in found.values():
        for asked, scores in rounds.items():
            if scores.keys() != units.keys():
                raise ValueError(f"the round {asked} is not of the same questions as the others")
    return {
        condition: {
            asked: np.array([scores[key] for key in units]) for asked, scores in rounds.items()
        }
        for condition, rounds in found.items()
    }, list(units.values())


def _point(
    shots: int,
    scores: Mapping[Round, NDArray[np.float64]],
    mean_Q: NDArray[np.float64],
    units: Units,
    headline: Mapping[Round, float] | None,
    level: float,
) -> Point:
    rounds = [each for each in scores if each[0] == shots]
    by_seed: dict[int, list[float]] = {}
    for each in rounds:
        by_seed.setdefault(each[1], []).append(float(scores[each].mean()))
    means = [math.fsum(values) / len(values) for values in by_seed.values()]
    variances = [np.var(values, ddof=1) for values in by_seed.values() if len(values) > 1]
    values = [headline[each] for each in rounds if headline and each in headline]
    found = unit_interval(mean_Q.tolist(), units, level=level)
    return Point(
        shots=shots,
        mean=found["mean"],
        low=found["low"],
        high=found["high"],
        over_seeds=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        over_orders=math.sqrt(np.mean(variances)) if variances else None,
        trials=tuple(
            {"seed": seed, "order": order, "mean": float(scores[shots, seed, order].mean())}
            for _, seed, order in rounds
        ),
        headline=math.fsum(values) / len(values) if values else None,
    )


def _mean(
    scores: Mapping[Round, NDArray[np.float64]], shots: int, seed: int | None = None
) -> NDArray[np.float64]:
    """Mean score per question at so many shots: of orders within a seed, then of seeds.

    Of one `seed`, where it has trials of its own.
    """
    by_seed: dict[int, list[NDArray[np.float64]]] = {}
    for (count, of_seed, _), score_Q in scores.items():
        if count == shots:
            by_seed.setdefault(of_seed, []).append(score_Q)
    chosen = [by_seed[seed]] if seed in by_seed else list(by_seed.values())
    return np.mean([np.mean(each, axis=0) for each in chosen], axis=0)


def _common_seeds(scores: Iterable[Round]) -> list[int]:
    """Return the seeds that have trials at every number of shots above zero."""
    by_shots: dict[int, set[int]] = {}
    for shots, seed, _ in scores:
        if shots:
            by_shots.setdefault(shots, set()).add(seed)
    return sorted(set.intersection(*by_shots.values())) if by_shots else []
