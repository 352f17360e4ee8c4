"""Questions on which evaluations disagree: which, in what order, with whose answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluated import answers, make_run

from vila_core.errors import UserError
from vila_core.store import Store, open_store
from vila_ops.comparing.chosen import choose
from vila_ops.comparing.disagreements import (
    Found,
    Who,
    benchmarks_of,
    find_disagreements,
    parse_key,
)
from vila_ops.comparing.pairs import Pairs


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def found(store: Store, *names: str, who: Who = "either", page: int = 1, rows: int = 20) -> Found:
    runs, problems = choose(store, names)
    assert not problems
    evaluations = [Pairs(store).evaluation(one) for one in runs]
    return find_disagreements(store, evaluations, ("toy", 0), who=who, page=page, rows=rows)


def keys(one: Found) -> list[str]:
    return [row.key for row in one.rows]


def test_who_is_right(store: Store) -> None:
    first = make_run(store, 1, answers([1.0, 0.0, 0.3, 0.0, 1.0]))
    second = make_run(store, 2, answers([0.0, 1.0, 0.6, 0.0, 1.0]))
    assert keys(found(store, first, second)) == ["toy/0", "toy/1", "toy/2"]  # widest apart first
    assert keys(found(store, first, second, who="second")) == ["toy/1", "toy/2"]
    assert keys(found(store, first, second, who="first")) == ["toy/0"]
    assert keys(found(store, first, second, who="neither")) == ["toy/3"]
    assert keys(found(store, first, second, who="answers")) == []
    assert found(store, first, second).of == 5


def test_other_words_of_the_same_score(store: Store) -> None:
    first = make_run(store, 1, answers([1.0, 1.0]))
    other = answers([1.0, 1.0])
    other[1]["answer"] = "yes, indeed"
    second = make_run(store, 2, other)
    assert keys(found(store, first, second, who="answers")) == ["toy/1"]


def test_pages(store: Store) -> None:
    first = make_run(store, 1, answers([0.0] * 45))
    second = make_run(store, 2, answers([1.0] * 45))
    last = found(store, first, second, page=99)
    assert (last.count, last.pages, last.page, len(last.rows)) == (45, 3, 3, 5)
    assert keys(found(store, first, second))[0] == "toy/0"


def test_all_runs_answers_stand_beside(store: Store) -> None:
    first = make_run(store, 1, answers([1.0, 1.0]))
    second = make_run(store, 2, answers([0.0, 0.0]))
    third = make_run(store, 3, answers([0.5]))
    shown = found(store, first, second, third).rows
    assert [one.score for one in shown[0].answers] == [1.0, 0.0, 0.5]
    assert shown[1].answers[2].text is None
    assert shown[0].references == ("yes",)


def test_draws_of_demonstrations_are_averaged(store: Store) -> None:
    both = answers([1.0], seed=0) + answers([0.0], seed=1)
    first = make_run(store, 1, both)
    second = make_run(store, 2, answers([1.0]))
    (row,) = found(store, first, second).rows
    assert (row.answers[0].score, row.answers[0].draws, row.answers[0].text) == (0.5, 2, "yes")


def test_unknown_scores_show_other_words_alone(store: Store) -> None:
    first = make_run(store, 1, answers([None, None]))
    other = answers([None, None])
    other[0]["answer"] = "else"
    second = make_run(store, 2, other)
    assert keys(found(store, first, second)) == []
    (row,) = found(store, first, second, who="answers").rows
    assert row.answers[0].score is None


def test_what_is_shared(store: Store) -> None:
    first = make_run(store, 1, answers([1.0]) + answers([1.0], task="alone"))
    second = make_run(store, 2, answers([0.0]))
    runs, _ = choose(store, [first, second])
    evaluations = [Pairs(store).evaluation(one) for one in runs]
    assert benchmarks_of(evaluations) == [("toy", 0)]
    with pytest.raises(UserError, match="was not asked alone@0"):
        find_disagreements(store, evaluations, ("alone", 0))
    with pytest.raises(UserError, match="a second run is needed"):
        find_disagreements(store, evaluations[:1], ("toy", 0))


@pytest.mark.parametrize("text", ["", "toy", "@0", "toy@", "toy@x", "toy@-1", "toy@123456789"])
def test_a_benchmark_without_shots_is_none(text: str) -> None:
    with pytest.raises(UserError, match="names no benchmark"):
        parse_key(text)
