"""Gates against the alias's present version: what passes, what fails, and what can't be told."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_evaluations import asked, candidate, evaluation, rows, version

from components.registry.gates.verdict import Verdict
from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store

NOT_WORSE = {"non_inferior": {"margin": 0.02}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def right(count: int, wrong: int, more_wrong: int = 0) -> list[float]:
    """Scores of 0 and 1: `wrong` and `more_wrong` of `count` are 0."""
    return [0.0] * wrong + [1.0] * (count - wrong - more_wrong) + [0.0] * more_wrong


def held(
    store: Store,
    tmp_path: Path,
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    *gates: dict[str, Any],
) -> list[Verdict]:
    theirs = evaluation(store, tmp_path / "before", before)
    present = version(store, theirs, theirs)
    ours = evaluation(store, tmp_path / "after", after)
    return asked(gates or (NOT_WORSE,), candidate(store, ours, present))


def test_an_equal_model_with_many_questions_is_not_worse(store: Store, tmp_path: Path) -> None:
    before, after = right(2000, 200), [1.0] * 20 + right(2000, 200, 20)[20:]
    (verdict,) = held(store, tmp_path, rows("pope", before), rows("pope", after))
    assert (verdict.passed, verdict.kind) == (True, "non-inferior")
    found = verdict.details
    assert found["gate"] == "pope@0"
    assert (found["n"], found["units"], found["tests"]) == (2000, 2000, 1)
    assert found["difference"] == pytest.approx(0.0)
    assert -0.02 < found["low"] < 0 < found["high"]
    assert found["p"] == found["p_holm"] < 0.05
    assert 0 < found["detectable"] < 0.02
    assert found["baseline_version"] == 1
    assert {len(one["results"]) for one in found["records"].values()} == {64}
    assert [one["own"] for one in found["records"].values()] == [True, True]
    assert "a loss of 2 points is ruled out" in verdict.text
    json.loads(dumps(verdict.as_json()))


def test_a_worse_model_fails_and_few_questions_prove_nothing(store: Store, tmp_path: Path) -> None:
    worse = held(
        store, tmp_path, rows("pope", right(2000, 200)), rows("pope", right(2000, 200, 60))
    )
    assert not worse[0].passed
    assert worse[0].value == pytest.approx(-0.03)
    same = rows("tiny", right(50, 5))
    few = held(store, tmp_path, same, same)
    assert not few[0].passed
    assert few[0].details["detectable"] > few[0].details["margin"]
    assert "is not ruled out" in few[0].text


def test_holm_is_over_all_benchmarks_of_all_gates(store: Store, tmp_path: Path) -> None:
    before = [row for name in ("a", "b", "c") for row in rows(name, right(1000, 100))]
    verdicts = held(
        store, tmp_path, before, before, NOT_WORSE, {"superior": {"benchmarks": ["a", "b"]}}
    )
    assert [one.kind for one in verdicts] == ["non-inferior"] * 3 + ["superior"] * 2
    assert {one.details["tests"] for one in verdicts} == {5}
    first = verdicts[0].details
    assert first["p_holm"] == pytest.approx(5 * first["p"])
    assert [one.passed for one in verdicts] == [True] * 3 + [False] * 2
    assert verdicts[3].details["p"] == 1.0


def test_superior_asks_for_a_gain_beyond_its_margin(store: Store, tmp_path: Path) -> None:
    before, after = rows("vqa", right(1000, 300)), rows("vqa", right(1000, 240))
    none, some = held(
        store,
        tmp_path,
        before,
        after,
        {"superior": {"benchmarks": ["vqa@0"]}},
        {"superior": {"benchmarks": ["vqa"], "margin": 0.05}},
    )
    assert none.passed
    assert none.value == pytest.approx(0.06)
    assert not some.passed  # 6 points, but 5 are not surely exceeded
    assert "a gain of 5 points or less is not ruled out" in some.text


def test_units_and_soft_scores_are_tested_by_units(store: Store, tmp_path: Path) -> None:
    before = rows("mme", [0.3, 0.6] * 500, unit=lambda number: f"image{number // 2}")
    (verdict,) = held(store, tmp_path, before, before)
    assert (verdict.details["n"], verdict.details["units"]) == (1000, 500)
    assert verdict.details["test"] == "Student's t over units"
    assert verdict.passed


def test_draws_of_demonstrations_are_averaged(store: Store, tmp_path: Path) -> None:
    twice = [
        *rows("vqa", right(900, 90), shots=4, seed=0),
        *rows("vqa", right(900, 0), shots=4, seed=1),
    ]
    (verdict,) = held(store, tmp_path, twice, twice)
    assert verdict.details["n"] == 900
    assert verdict.details["first"] == pytest.approx(0.95)


def test_blind_answers_are_no_answers(store: Store, tmp_path: Path) -> None:
    seen = rows("vqa", right(900, 90))
    blind = rows("vqa", right(900, 900), condition="blind")
    (verdict,) = held(store, tmp_path, seen, [*seen, *blind])
    assert verdict.details["second"] == pytest.approx(0.9)


SEEN = rows("pope", right(1000, 100))


@pytest.mark.parametrize(
    ("after", "gate", "found"),
    [
        ([], NOT_WORSE, "no records of the model"),
        (rows("mmmu", [1.0] * 9), NOT_WORSE, "no benchmark in common"),
        (rows("pope", [1.0] * 1000, version="2"), NOT_WORSE, "different versions of the benchmark"),
        (rows("pope", [None] * 1000), NOT_WORSE, "scores are not known"),
        (SEEN[:900], NOT_WORSE, "asked 900 of the 1,000 questions .* at least 100%"),
        (
            SEEN,
            {"non_inferior": {"margin": 0.02, "benchmarks": ["mme"]}},
            "no records of the model and the present version",
        ),
        (
            [*SEEN, *rows("mme", [1.0])],
            {"superior": {"benchmarks": ["mme"]}},
            "no records of the present version",
        ),
    ],
)
def test_what_cannot_be_told_fails(
    store: Store, tmp_path: Path, after: list[dict[str, Any]], gate: dict[str, Any], found: str
) -> None:
    (verdict,) = held(store, tmp_path, SEEN, after, gate)
    assert (verdict.passed, verdict.value) == (False, None)
    assert re.search(found, verdict.text)
    assert verdict.details["fix"]


def test_an_evaluation_that_was_removed_or_damaged_is_told(store: Store, tmp_path: Path) -> None:
    present = version(store, "c" * 64)
    ours = evaluation(store, tmp_path / "after", SEEN)
    (verdict,) = asked([NOT_WORSE], candidate(store, ours, present))
    assert not verdict.passed
    assert "no records of the present version (" in verdict.text
    bad = evaluation(store, tmp_path / "bad", [{"key": "x"}])
    (verdict,) = asked([NOT_WORSE], candidate(store, bad, version(store, ours, "m")))
    assert "records.jsonl:1: is not a record of an evaluation" in verdict.text


def test_part_of_the_questions_is_enough_where_the_gate_says_so(
    store: Store, tmp_path: Path
) -> None:
    (verdict,) = held(
        store, tmp_path, SEEN, SEEN[:950], {"non_inferior": {"margin": 0.05, "overlap_min": 0.9}}
    )
    assert verdict.passed
    assert verdict.details["only_present"] == 50


def test_benchmarks_that_the_model_was_not_asked_are_named(store: Store, tmp_path: Path) -> None:
    (verdict,) = held(store, tmp_path, [*SEEN, *rows("mme", [1.0])], SEEN)
    assert verdict.passed
    assert verdict.details["lacking"] == ["mme@0"]


@pytest.mark.parametrize(("first", "passed"), [("pass", True), ("fail", False)])
def test_the_first_version(store: Store, tmp_path: Path, first: str, passed: bool) -> None:
    ours = evaluation(store, tmp_path / "after", SEEN)
    gate = {"non_inferior": {"margin": 0.02, "first": first}}
    (verdict,) = asked([gate], candidate(store, ours, None))
    assert verdict.passed == passed
    assert "mini@champion stands at no version yet" in verdict.text


def test_the_version_that_stands_there_is_not_held_against_itself(
    store: Store, tmp_path: Path
) -> None:
    present = version(store, evaluation(store, tmp_path / "few", rows("pope", [1.0] * 5)))
    (verdict,) = asked([NOT_WORSE], candidate(store, present.results, present, version=present))
    assert verdict.passed
    assert "it is mini@1 itself" in verdict.text


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"non_inferior": {}}, "gates.0.non_inferior.margin: is required and not set"),
        ({"non_inferior": {"margin": 2}}, r"non_inferior.margin: 2 is not valid: .* less than 1"),
        ({"non_inferior": {"margin": 0}}, "greater than 0"),
        ({"superior": {"levle": 0.9}}, "superior.levle: unknown key; did you mean 'level'"),
        ({"superior": {"benchmarks": []}}, "no benchmark is named; write 'shared'"),
        ({"superior": {"benchmarks": "pope"}}, "gates.0.superior.benchmarks"),
        ({"non_inferior": {"margin": 0.1}, "metric": "a/b@0"}, "has metric and non_inferior"),
        ({"non_inferior": {"margin": 0.1}, "min": 0.1}, "min belongs to a gate on a metric"),
        ({}, "a gate has one of metric, non_inferior, superior, resume"),
        ({"supperior": {}}, "unknown key; did you mean 'superior'"),
        ({"licences": {}}, "name licences under allow or deny"),
        ({"approvals": {"count": 0}}, "approvals.count: 0 is not valid"),
        ({"export": {"layouts": ["gguf"]}}, "export.layouts.0"),
    ],
)
def test_mistakes_in_a_file(
    store: Store, tmp_path: Path, gate: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        asked([gate], candidate(store, "", None))
