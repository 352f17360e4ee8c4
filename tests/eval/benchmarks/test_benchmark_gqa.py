from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import make_gqa
from vila_core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_gqa(tmp_path)


def test_answers_are_compared_to_the_letter_in_lower_case(folder: Path) -> None:
    questions = ask("gqa", folder)
    assert shown(questions[1]) == (
        "<image>\nIs the wall green?\nAnswer the question using a single word or phrase."
    )
    replies = dict(zip([q.key for q in questions], ["Red.", "Yes", "the blue", "no"], strict=True))
    run = answered("gqa", questions, lambda question: replies[question.key])
    assert [grade.parsed for grade in run.grades] == ["red", "yes", "the blue", "no"]
    assert run.metrics == {
        "accuracy": 0.5,
        "accuracy/query": 0.5,
        "accuracy/verify": 0.5,
        "accuracy/open": 0.5,
        "accuracy/binary": 0.5,
    }
    assert run.files["gqa_testdev_predictions.json"][0] == {
        "questionId": "tes0",
        "prediction": "red",
    }


def test_the_servers_questions_have_no_answers(folder: Path) -> None:
    run = answered("gqa", ask("gqa", folder, "submission"), lambda question: "Yes.")
    assert run.metrics == {}
    assert [each["prediction"] for each in run.files["gqa_submission_predictions.json"]] == (
        ["yes"] * 4
    )


def test_files_may_lie_in_the_folder_of_their_archive(folder: Path) -> None:
    (folder / "questions1.2").mkdir()
    name = "testdev_balanced_questions.json"
    (folder / name).rename(folder / "questions1.2" / name)
    assert len(ask("gqa", folder)) == 4


def test_a_question_that_stands_twice_or_has_no_answer(folder: Path) -> None:
    path = folder / "testdev_balanced_questions.json"
    one = json.dumps({"question": "Is it?", "imageId": "n1", "answer": "yes"})
    path.write_text(f'{{"201": {one}, "201": {one}}}')
    with pytest.raises(UserError, match="the id '201' stands twice"):
        ask("gqa", folder)
    path.write_text(f'{{"201": {one.replace("answer", "reply")}}}')
    with pytest.raises(UserError, match="question 201: 'answer' is missing; is this the official"):
        ask("gqa", folder)
    path.write_text("{}")
    with pytest.raises(UserError, match="holds no questions"):
        ask("gqa", folder)
