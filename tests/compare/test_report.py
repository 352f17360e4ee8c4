"""What a comparison says: settings, seeds, tests in the background, warnings, problems apart."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path

import pytest
from evaluated import answers, make_run, run_id

from tests.web.made_runs import write_run
from vila_core.errors import UserError
from vila_core.store import Store, open_store
from vila_ops.comparing.chosen import choose
from vila_ops.comparing.export import markdown, metrics_csv, settings_csv
from vila_ops.comparing.pairs import Pairs
from vila_ops.comparing.report import Report, make_report
from vila_ops.comparing.seeds import seed_groups
from vila_ops.paired import compare_paired

BETTER = [1.0] * 40
WORSE = [0.0] * 30 + [1.0] * 10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def report(store: Store, *names: str, reference: str = "") -> Report:
    return make_report(store, Pairs(store), names, reference=reference, patience=20)


def test_a_difference_is_found_and_told_in_words(store: Store) -> None:
    first, second = make_run(store, 1, answers(WORSE)), make_run(store, 2, answers(BETTER))
    found = report(store, first, second)
    ours, theirs = found.scores["toy@0"]
    assert (ours.score, theirs.score, theirs.verdict) == (0.25, 1.0, "better")
    back = report(store, first, second, reference=second)
    assert back.scores["toy@0"][0].verdict == "worse"
    assert back.link.endswith(f"&ref={second}")
    with pytest.raises(UserError, match="is none of the runs"):
        report(store, first, second, reference="x")


def test_two_runs_say_what_the_terminal_says(store: Store) -> None:
    first, second = make_run(store, 1, answers(WORSE)), make_run(store, 2, answers(BETTER))
    row = report(store, first, second).scores["toy@0"][1].row
    assert row == compare_paired(store, first, second).rows[0]


def test_p_values_are_corrected_over_all_runs_of_the_page(store: Store) -> None:
    first = make_run(store, 1, answers(WORSE))
    others = [make_run(store, number, answers(BETTER)) for number in (2, 3, 4)]
    found = report(store, first, *others)
    rows = [cell.row for cell in found.scores["toy@0"][1:]]
    assert found.tests == 3
    assert all(row is not None and row.p_holm == pytest.approx(3 * row.p) for row in rows)


def test_tests_are_computed_beside_the_request_and_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_run(store, 1, answers(WORSE)), make_run(store, 2, answers(BETTER))
    times = []
    from vila_ops.comparing import pairs as module

    real = module.pair_of

    def slowly(*both: object) -> object:
        times.append(1)
        time.sleep(0.2)
        return real(*both)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "pair_of", slowly)
    pairs = Pairs(store)
    found = make_report(store, pairs, [first, second], patience=0)
    assert found.pending == (second,)
    assert not found.scores
    for _ in range(3):
        found = make_report(store, pairs, [first, second], patience=20)
        assert found.pending == ()
    assert len(times) == 1


def test_settings_that_differ(store: Store) -> None:
    first = make_run(store, 1, config={"sft": {"lr": 0.1, "seed": 1, "api_key": "hidden-1"}})
    second = make_run(
        store,
        2,
        config={"sft": {"lr": 0.2, "seed": 1, "extra": None, "api_key": "hidden-2"}, "more": [1]},
        code_digest="e" * 64,
        environment={"python": "3.12"},
    )
    found = report(store, first, second)
    told = {
        (section.name, one.key): one.values
        for section in found.settings
        for one in section.different
    }
    assert told[("sft", "lr")] == ("0.1", "0.2")
    assert told[("sft", "extra")] == (None, "null")
    assert told[("more", "")] == (None, "[1]")
    assert told[("code", "code")] == ("d" * 12, "e" * 12)
    assert told[("environment", "environment.python")] == (None, "3.12")
    assert ("sft", "seed") not in told
    assert "hidden" not in str(found.settings)
    assert any("code differs" in one for one in found.warnings)


def test_seeds_alone(store: Store) -> None:
    names = [make_run(store, n, config={"sft": {"lr": 0.1, "seed": n}}) for n in (1, 2)]
    names.append(make_run(store, 3, config={"sft": {"lr": 0.2, "seed": 3}}))
    runs, _ = choose(store, names)
    groups = seed_groups(runs)
    assert [(group.letters, group.seeds) for group in groups] == [
        ("A, B", ("sft.seed",)),
        ("C", ()),
    ]


def test_what_makes_a_difference_mean_less_is_told(store: Store) -> None:
    first = make_run(store, 1, answers(BETTER) + answers(BETTER, task="old", version="1"))
    second = make_run(store, 2, answers(WORSE[:30]) + answers(WORSE, task="old", version="2"))
    other = answers(WORSE)
    for line in other:
        line["prompt_digest"] += " in other words"
    third = make_run(store, 3, other, status="running")
    told = " ".join(report(store, first, second, third).warnings)
    assert "C is still running" in told
    assert "B: old@0 by another version of the benchmark" in told
    assert "B: only partly the same questions in toy@0" in told
    assert "C: other prompts (template, demonstrations) in toy@0" in told


def test_a_run_that_cant_be_read_leaves_the_others(store: Store) -> None:
    first, second = make_run(store, 1, answers(WORSE)), make_run(store, 2, answers(BETTER))
    for number, broken in enumerate([b"{", b"[]", b'{"name": 1}', b'{"tasks": 3}'], start=3):
        store.write(f"runs/{run_id(number)}/run.json", broken)
    write_run(store, run_id(9), config=["no", "mapping"])
    bad = [run_id(number) for number in (3, 4, 5, 6, 9)]
    found = report(store, first, *bad, "nothing-there", second)
    assert [one.name for one in found.runs] == [first, second]
    assert [one.run for one in found.problems] == [*bad, "nothing-there"]
    assert found.scores["toy@0"][1].verdict == "better"


def test_records_that_cant_be_read_are_told_in_their_place(store: Store) -> None:
    first, second = make_run(store, 1, answers(WORSE)), make_run(store, 2, answers(BETTER))
    third, fourth = make_run(store, 3, [{"key": "x", "score": 1}]), make_run(store, 4)
    gone = report(store, first, third, fourth, second)
    assert "is not a record of an evaluation" in gone.outcomes[1].problem
    assert "no records of an evaluation" in gone.outcomes[2].problem
    assert gone.scores["toy@0"][3].verdict == "better"
    for key in list(store.list("artifacts/")):
        store.delete(key)
    assert "there is no such artifact" in report(store, first, second).outcomes[1].problem


def test_more_than_twenty_are_left_out(store: Store) -> None:
    names = [make_run(store, number) for number in range(1, 23)]
    found = report(store, *names)
    assert len(found.runs) == 20
    assert [one.run for one in found.problems] == names[20:]


def test_csv_is_no_formula_and_markdown_no_table_of_its_own(store: Store) -> None:
    hostile = '=HYPERLINK("http://x")|<img src=x onerror=alert(1)>\n\n# heading [a](b)'
    first = make_run(store, 1, answers(WORSE), config={"sft": {"note": "plain"}})
    second = make_run(store, 2, answers(BETTER), config={"sft": {"note": hostile}})
    found = report(store, first, second)
    rows = list(csv.reader(io.StringIO(settings_csv(found))))
    assert rows[1][3] == f"'{hostile}"
    text = markdown(found)
    line = next(line for line in text.splitlines() if "note" in line)
    assert "\\|\\<img" in line
    assert "\\# heading \\[a\\](b)" in line
    tests = [
        row for row in csv.DictReader(io.StringIO(metrics_csv(found))) if row["kind"] == "test"
    ]
    assert [row["verdict"] for row in tests] == ["", "better"]
    assert float(tests[1]["difference"]) == 0.75


def test_an_evaluation_is_compared_by_its_task(store: Store) -> None:
    first, second = make_run(store, 1, answers(WORSE)), make_run(store, 2, answers(BETTER))
    found = report(store, f"{first}:evaluate", f"{second}:evaluate", f"{second}:sft")
    assert found.runs[0].name == f"{first}:evaluate"
    assert found.scores["toy@0"][1].verdict == "better"
    assert "no records of an evaluation" in found.outcomes[2].problem
