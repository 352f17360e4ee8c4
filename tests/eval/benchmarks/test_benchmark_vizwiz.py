from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import make_vizwiz
from vila_core.errors import UserError
from vila_core.eval.benchmarks.vizwiz import vizwiz_accuracy

PROMPT = (
    "<image>\nWhat is this, number 0?\nWhen the provided information is insufficient, respond with "
    "'Unanswerable'.\nAnswer the question using a single word or phrase."
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_vizwiz(tmp_path)


def test_val_is_scored(folder: Path) -> None:
    questions = ask("vizwiz", folder, "val")
    assert shown(questions[0]) == PROMPT
    replies = dict(zip([q.key for q in questions], ["Red!", "green", "Unanswerable"], strict=True))
    run = answered("vizwiz", questions, lambda question: replies[question.key])
    assert [grade.parsed for grade in run.grades] == ["red", "green", "unanswerable"]
    assert run.metrics == {"accuracy": 1.0, "accuracy/other": 1.0, "accuracy/unanswerable": 1.0}


def test_peoples_answers_are_compared_as_they_are_written() -> None:
    # VQAv2's scorer would read "Red!" as "red" here, since the answers differ.
    assert vizwiz_accuracy("red", ["Red!"] * 8 + ["blue"] * 2) == 0.0
    assert vizwiz_accuracy("A red", ["red"] * 3 + ["blue"] * 7) == pytest.approx(0.9)
    assert vizwiz_accuracy("red", ["red"] * 2 + ["blue"] * 8) == pytest.approx(0.6)


def test_the_submission_names_images(folder: Path) -> None:
    run = answered("vizwiz", ask("vizwiz", folder), lambda question: "Two, perhaps.")
    assert run.metrics == {}
    assert run.files["vizwiz_test_results.json"] == [
        {"image": f"VizWiz_test_{n:08}.jpg", "answer": "2 perhaps"} for n in range(3)
    ]


def test_llavas_file_asks_the_same(folder: Path) -> None:
    official = ask("vizwiz", folder)
    lines = [
        {
            "question_id": n,
            "image": question.key,
            "text": shown(question).removeprefix("<image>\n"),
            "category": "default",
        }
        for n, question in enumerate(official)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "llava_test.jsonl").write_text(text)
    (folder / "test.json").unlink()
    assert [(q.key, q.case) for q in ask("vizwiz", folder)] == [(q.key, q.case) for q in official]


def test_broken_files(folder: Path) -> None:
    path = folder / "val.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([*records, records[0]]))
    with pytest.raises(UserError, match=r"\[3\]: the question id 'VizWiz_val_00000000.jpg' stands"):
        ask("vizwiz", folder, "val")
    path.write_text(json.dumps([{**records[0], "answers": []}]))
    with pytest.raises(UserError, match=r"VizWiz_val_00000000\.jpg has no answers"):
        ask("vizwiz", folder, "val")
    path.write_text(json.dumps({"data": records}))
    with pytest.raises(UserError, match="a list of questions is needed, found dict"):
        ask("vizwiz", folder, "val")
    path.write_text((folder / "test.json").read_text())
    with pytest.raises(UserError, match=r"val.json: \[0\]: 'answers' is missing"):
        ask("vizwiz", folder, "val")
