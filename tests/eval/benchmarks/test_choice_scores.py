"""The choice benchmarks end to end on small official samples: grades, metrics, submissions."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import openpyxl
import pytest

from tests.eval.benchmarks import samples_choice as samples
from tests.eval.benchmarks.test_choice_readers import read
from vila_core.eval.benchmark import Benchmark, Grade, Question

ENDLESS = "yes " * 500
NASTY = ("", "\x00\x07\x1b[0m", ENDLESS, "\N{PILE OF POO}", "\t\n,.'")


def score(
    bench: Benchmark, questions: list[Question], answers: list[str]
) -> tuple[list[Grade], dict[str, float]]:
    grades = bench.grade(questions, answers)
    return grades, bench.metrics(questions, grades)


def truth(questions: list[Question]) -> list[str]:
    return [question.case.answer for question in questions]


def files_of(bench: Benchmark, questions: list[Question], answers: list[str]) -> dict[str, bytes]:
    assert bench.submission is not None
    return bench.submission(questions, answers)


UNJUDGED = [name for name in samples.MAKERS if name not in ("llava_bench", "mm_vet")]


@pytest.mark.parametrize("name", UNJUDGED)
def test_the_right_answers_score_full_marks(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    bench, questions = read(name, tmp_path)
    grades, metrics = score(bench, questions, truth(questions))
    assert {grade.score for grade in grades} == {1.0}
    assert metrics[bench.headline] == (2000.0 if name == "mme" else 1.0)


@pytest.mark.parametrize("name", UNJUDGED)
def test_a_bootstrap_may_draw_a_unit_twice(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    bench, questions = read(name, tmp_path)
    answers = truth(questions)
    answers[0] = "nothing of the kind"
    grades, metrics = score(bench, questions, answers)
    twice = bench.metrics([*questions, *questions], [*grades, *grades])
    assert twice == pytest.approx(metrics)


@pytest.mark.parametrize("name", samples.MAKERS)
def test_answers_without_sense_are_graded_and_written(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    bench, questions = read(name, tmp_path)
    answers = [NASTY[n % len(NASTY)] for n in range(len(questions))]
    _, metrics = score(bench, questions, answers)
    assert all(value == value for value in metrics.values())
    assert all(files_of(bench, questions, answers).values())


def test_pope_prints_the_mean_of_three_f1(tmp_path: Path) -> None:
    samples.make_pope(tmp_path)
    bench, questions = read("pope", tmp_path)
    answers = [
        *("Yes, there is a dog.", "No, there is no kite.", "Yes.", "no"),  # all right
        *("yes", "yes", "yes", "yes"),  # always yes: precision 1/2, recall 1
        *("no", "Not at all", "Yes. No more.", "I see one"),  # "Not" is no negation
    ]
    _, metrics = score(bench, questions, answers)
    assert metrics["f1/random"] == 1.0
    assert metrics["f1/popular"] == pytest.approx(2 / 3)
    assert metrics["f1/adversarial"] == pytest.approx(0.4)
    assert metrics["f1"] == pytest.approx((1 + 2 / 3 + 0.4) / 3)
    assert metrics["yes_ratio/popular"] == 1.0
    assert metrics["accuracy"] == pytest.approx((1 + 0.5 + 0.25) / 3)
    written = files_of(bench, questions, answers)["pope_random.json"].decode().splitlines()
    assert json.loads(written[1]) == {
        "question": "Is there a kite in the image?",
        "answer": "No, there is no kite.",
    }


def test_mme_counts_points_and_skips_an_image_asked_by_half(tmp_path: Path) -> None:
    samples.make_mme(tmp_path)
    bench, questions = read("mme", tmp_path)
    answers = ["no" if q.key == "OCR/0001.png/1" else "Yes" for q in questions]
    _, metrics = score(bench, questions, answers)
    # Always yes: half of the questions, no image. OCR: no image either, one question less.
    assert metrics["score/existence"] == 50.0
    assert metrics["score/OCR"] == 25.0
    assert metrics["perception"] == 9 * 50.0 + 25.0
    assert metrics["cognition"] == 200.0
    _, cut = score(bench, questions[:3], truth(questions[:3]))
    assert cut["perception"] == 200.0
    written = files_of(bench, questions, ["Yes\n\tit is"] * len(questions))["OCR.txt"].decode()
    asked = "Is this OCR red? Please answer yes or no."
    assert written.splitlines()[0] == f"0001.txt\t{asked}\tYes\tYes it is"


def test_mmbench_counts_a_question_that_is_right_in_all_rotations(tmp_path: Path) -> None:
    samples.make_mmbench(tmp_path)
    bench, questions = read("mmbench", tmp_path)
    answers = ["A", "D. red", "The answer is C", "red", "B", "B"]
    grades, metrics = score(bench, questions, answers)
    assert [grade.parsed for grade in grades] == ["A", "D", "C", "B", "B", "B"]
    assert metrics["accuracy"] == 0.5
    assert metrics["accuracy/coarse_perception"] == 1.0
    assert metrics["accuracy/finegrained_perception_instance-level"] == 0.0
    assert metrics["accuracy/ability_0"] == 1.0
    assert metrics["single_accuracy"] == 1.0


def test_mmbench_writes_the_spreadsheet_of_the_server(tmp_path: Path) -> None:
    samples.make_mmbench(tmp_path)
    bench, questions = read("mmbench", tmp_path)
    answers = [f"{q.key} <&> \x07\u597d " for q in questions]
    files = files_of(bench, questions, answers)
    assert files == files_of(bench, questions, answers)
    sheet = openpyxl.load_workbook(io.BytesIO(files["mmbench.xlsx"])).active
    assert sheet is not None
    rows = list(sheet.iter_rows(values_only=True))
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert [row[0] for row in rows[1:]] == [241, 252, 1000241, 1000252, 2000241, 3000241]
    assert rows[2] == (
        *(252, "Is it day?", "yes", "no", "nan", "nan"),
        *("252 <&> \ufffd\u597d", "B", "dev"),
    )


def test_seed_wants_the_letter_and_nothing_else(tmp_path: Path) -> None:
    samples.make_seed(tmp_path)
    bench, questions = read("seed", tmp_path)
    _, metrics = score(bench, questions, [" A\n", "B.", "C"])
    assert metrics == {
        "accuracy": pytest.approx(2 / 3),
        "accuracy/image": 0.5,
        "accuracy/video": 1.0,
        "accuracy/instances_counting": 0.5,
        "accuracy/action_recognition": 1.0,
    }
    written = files_of(bench, questions, [" A\n", "B.", "C"])["seed_bench.jsonl"]
    assert [json.loads(line) for line in written.decode().splitlines()] == [
        {"question_id": "101669", "prediction": "A"},
        {"question_id": "101670", "prediction": "B."},
        {"question_id": "v1738", "prediction": "C"},
    ]


def test_mmmu_draws_an_unclear_choice_as_the_official_code_and_says_so(tmp_path: Path) -> None:
    samples.make_mmmu(tmp_path)
    bench, questions = read("mmmu", tmp_path)
    answers = ["(B)", "The answer is 1.50"] * 30
    answers[0] = answers[2] = "hm"
    answers[1] = "2"
    grades, metrics = score(bench, questions, answers)
    draw = random.Random(42)
    lots = [draw.choice(["A", "B", "C"]) for _ in range(2)]
    assert [grades[0].parsed, grades[2].parsed] == lots
    assert metrics["drawn"] == pytest.approx(2 / 60)
    assert metrics["strict_accuracy"] == pytest.approx(57 / 60)
    assert metrics["accuracy"] == pytest.approx((57 + lots.count("B")) / 60)
    assert metrics["accuracy/Accounting"] == (lots[0] == "B") / 2
    assert metrics["accuracy/Science"] == 1.0
    written = json.loads(files_of(bench, questions, answers)["mmmu.json"])
    assert written["validation_Art_1"] == "B"
    assert written["validation_Art_2"] == "The answer is 1.50"


def test_nlvr2_reads_the_first_word_and_counts_consistent_sentences(tmp_path: Path) -> None:
    samples.make_nlvr2(tmp_path)
    bench, questions = read("nlvr2", tmp_path)
    answers = ["True.", "yes", "  'False', since"]
    _, metrics = score(bench, questions, answers)
    assert metrics == {"accuracy": pytest.approx(2 / 3), "consistency": 0.5}
    assert files_of(bench, questions, [*answers[:2], "it is not true"])["nlvr2.csv"].decode() == (
        "dev-850-0-0,True\ndev-850-1-0,True\ndev-850-0-1,\n"
    )


def test_blink_averages_tasks(tmp_path: Path) -> None:
    samples.make_blink(tmp_path)
    bench, questions = read("blink", tmp_path)
    answers = truth(questions)
    answers[0], answers[1] = "(B)", "I can't tell"
    _, metrics = score(bench, questions[:3], answers[:3])
    assert metrics["accuracy"] == 0.5  # a task at 0, a task of one question at 1
    assert metrics["pooled_accuracy"] == pytest.approx(1 / 3)
    written = json.loads(files_of(bench, questions, answers)["blink.json"])
    assert written["val_Art_Style_1"] == "(B)"
    assert written["val_Art_Style_2"] == "(Z)"
