"""Bootstrap over units: against theory, against drawing one by one, and for metrics of any kind."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from vila_core.eval.benchmark import Grade, Question
from vila_core.eval.bootstrap import metric_intervals, unit_error, unit_interval
from vila_core.eval.items import Case


def test_the_error_of_units_of_one_question_is_that_of_a_mean() -> None:
    rng = random.Random(1)
    first = [float(rng.random() < 0.7) for _ in range(400)]
    second = [float(rng.random() < 0.6) for _ in range(400)]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    names = [str(number) for number in range(400)]
    assert unit_error(differences, names) == pytest.approx(
        np.std(differences, ddof=1) / math.sqrt(400)
    )


def test_dependent_questions_count_as_one() -> None:
    scores = [float(number % 3 == 0) for number in range(300)]
    alone = unit_interval(scores, [str(number) for number in range(300)])
    fourfold = [score for score in scores for _ in range(4)]
    units = [str(number) for number in range(300) for _ in range(4)]
    assert unit_interval(fourfold, units) == pytest.approx(alone, abs=1e-9)
    assert unit_error(fourfold, units) == pytest.approx(
        unit_error(scores, [str(number) for number in range(300)])
    )
    as_if_independent = unit_interval(fourfold, [str(number) for number in range(1_200)])
    width, narrow = alone["high"] - alone["low"], as_if_independent["high"] - alone["mean"]
    assert width == pytest.approx(4 * narrow, rel=0.15)


def test_order_makes_no_difference_and_blocks_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(2)
    scores = [rng.random() for _ in range(50)]
    units = [str(rng.randrange(20)) for _ in range(50)]
    whole = unit_interval(scores, units)
    mixed = list(zip(scores, units, strict=True))
    rng.shuffle(mixed)
    assert unit_interval(*zip(*mixed, strict=True)) == pytest.approx(whole)  # type: ignore[arg-type]
    monkeypatch.setattr("vila_core.eval.bootstrap._CELLS", 700)
    assert unit_interval(scores, units) == pytest.approx(whole)


@pytest.mark.parametrize(("scores", "units"), [([], []), ([1.0], ["a", "b"])])
def test_what_is_no_list_of_units(scores: list[float], units: list[str]) -> None:
    with pytest.raises(ValueError, match="scores of units"):
        unit_interval(scores, units)
    assert unit_error([1.0, 0.0], ["a", "a"]) == 0.0


def grades(scores: Sequence[float]) -> list[Grade]:
    return [Grade("yes" if score else "no", score) for score in scores]


def questions(units: Sequence[str]) -> list[Question]:
    return [
        Question(f"q{number}", Case(("?",), "yes"), unit=unit) for number, unit in enumerate(units)
    ]


def mean(asked: Sequence[Question], graded: Sequence[Grade]) -> dict[str, float]:
    return {"accuracy": math.fsum(grade.score or 0.0 for grade in graded) / len(asked)}


def test_of_a_mean_it_agrees_with_the_interval_of_a_mean() -> None:
    rng = random.Random(3)
    scores = [float(rng.random() < 0.8) for _ in range(200)]
    units = [str(number // 2) for number in range(200)]
    found = metric_intervals(questions(units), grades(scores), mean)["accuracy"]
    expected = unit_interval(scores, units)
    assert found["value"] == expected["mean"]
    assert found["low"] == pytest.approx(expected["low"], abs=0.012)
    assert found["high"] == pytest.approx(expected["high"], abs=0.012)


def test_a_metric_sees_each_copy_of_a_unit_as_a_group_of_its_own() -> None:
    def pairs(asked: Sequence[Question], graded: Sequence[Grade]) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for question, grade in zip(asked, graded, strict=True):
            groups.setdefault(question.unit, []).append(grade.score or 0.0)
        assert len({question.key for question in asked}) == len(asked)
        assert all(len(group) == 2 for group in groups.values())
        return {"acc+": sum(min(group) for group in groups.values()) / len(groups)}

    scores = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0] * 25
    units = [str(number // 2) for number in range(200)]
    found = metric_intervals(questions(units), grades(scores), pairs)["acc+"]
    assert found["value"] == 0.5
    assert found["low"] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert found["high"] == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)


def test_a_metric_that_most_draws_lack_has_no_interval() -> None:
    def rare(asked: Sequence[Question], graded: Sequence[Grade]) -> dict[str, float]:
        without_copies = all("#" not in question.key for question in asked)
        return {"always": 1.0} | ({"rare": 1.0} if without_copies else {})

    units = [str(number) for number in range(100)]
    found = metric_intervals(questions(units), grades([1.0] * 100), rare)
    assert found == {"always": {"value": 1.0, "low": 1.0, "high": 1.0}}
    with pytest.raises(ValueError, match="no pairs"):
        metric_intervals(questions(units), [], rare)


def test_large_benchmarks_get_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(asked: Sequence[Question], graded: Sequence[Grade]) -> dict[str, float]:
        calls.append(len(asked))
        return mean(asked, graded)

    units = [str(number) for number in range(10)]
    for asked, expected in ((20_000, 1_000), (5_000, 500), (100, 200)):
        monkeypatch.setattr("vila_core.eval.bootstrap._ASKED", asked)
        calls.clear()
        metric_intervals(questions(units), grades([1.0] * 10), counted)
        assert calls == [10] * (expected + 1)
