from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import make_scienceqa
from vila_core.errors import UserError

LETTER = "Answer with the option's letter from the given choices directly."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_scienceqa(tmp_path)


def test_prompts_are_what_llavas_converter_writes(folder: Path) -> None:
    questions = ask("scienceqa", folder)
    assert [shown(question) for question in questions[1:3]] == [
        "<image>\nContext: The picture shows a wall.\nQuestion: Which color is shown in picture 1?"
        f"\nOptions: (A) red (B) green (C) blue\n{LETTER}",
        "Context: N/A\nQuestion: Which color is shown in picture 2?"
        f"\nOptions: (A) red (B) green (C) blue\n{LETTER}",
    ]
    plain = ask("scienceqa", folder, layout="plain")[2]
    assert shown(plain).endswith("\nOptions: (A) red (B) green (C) blue\nAnswer:")
    assert plain.case.answer == "C"
    assert plain.choices == ("red", "green", "blue")


def test_letters_are_read_as_llava_reads_them(folder: Path) -> None:
    questions = ask("scienceqa", folder)  # right: A, B, C, A
    replies = ["A", "B. green", "(C)", "The answer is A."]
    said = dict(zip([question.key for question in questions], replies, strict=True))
    run = answered("scienceqa", questions, lambda question: said[question.key])
    assert [grade.parsed for grade in run.grades] == ["A", "B", "", "A"]
    assert run.metrics == {
        "accuracy": 0.75,
        "accuracy/natural_science": 0.5,
        "accuracy/social_science": 1.0,
        "accuracy/image": 1.0,
        "accuracy/text": 1.0,
        "accuracy/none": 0.0,
        "accuracy/grades_1-6": pytest.approx(2 / 3),
        "accuracy/grades_7-12": 1.0,
    }
    wrong = answered("scienceqa", questions, lambda question: "E")
    assert wrong.metrics["accuracy"] == 0.0


def test_llavas_wording_is_used_to_the_letter_where_its_file_is_there(folder: Path) -> None:
    records = [
        {
            "id": "1",
            "image": "1/image.png",
            "conversations": [
                {"from": "human", "value": "Which one?\nA. red\nB. green\n<image>"},
                {"from": "gpt", "value": "A"},
            ],
        }
    ]
    (folder / "llava_test_CQM-A.json").write_text(json.dumps(records))
    first, second = ask("scienceqa", folder)[:2]
    assert shown(first) == f"<image>\nWhich one?\nA. red\nB. green\n{LETTER}"
    assert "Options: (A) red" in shown(second)
    (folder / "llava_test_CQM-A.json").write_text('[{"id": "1", "conversations": []}]')
    with pytest.raises(UserError, match=r"\[0\]: holds no conversation"):
        ask("scienceqa", folder)


def test_minitest_shows_the_images_of_test(folder: Path) -> None:
    assert [question.key for question in ask("scienceqa", folder, "minitest")] == ["1", "2"]


def test_broken_files(folder: Path) -> None:
    splits = json.loads((folder / "pid_splits.json").read_text())
    (folder / "pid_splits.json").write_text(json.dumps(splits | {"test": ["1", "999"]}))
    with pytest.raises(UserError, match=r"test\[1\] is problem 999, which problems.json does not"):
        ask("scienceqa", folder)
    (folder / "pid_splits.json").write_text(json.dumps(splits | {"test": ["1", "1"]}))
    with pytest.raises(UserError, match="the question id '1' stands twice"):
        ask("scienceqa", folder)
    del splits["test"]
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match=r"pid_splits\.json: 'test' is missing"):
        ask("scienceqa", folder)
    problems = json.loads((folder / "problems.json").read_text())
    problems["5"]["answer"] = 3
    (folder / "problems.json").write_text(json.dumps(problems))
    with pytest.raises(UserError, match="problem 5: answer 3 is not among 3 choices"):
        ask("scienceqa", folder, "val")
    one = json.dumps(problems["1"])
    (folder / "problems.json").write_text(f'{{"1": {one}, "1": {one}}}')
    with pytest.raises(UserError, match="the id '1' stands twice"):
        ask("scienceqa", folder, "val")
