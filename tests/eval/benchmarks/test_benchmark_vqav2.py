from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import make_vqav2
from vila_core.errors import UserError

QUESTIONS, ANSWERS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_vqav2(tmp_path)


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_val_is_asked_as_llava_asks_and_scored_by_ten_people(folder: Path) -> None:
    questions = ask("vqav2", folder, "val")
    first = questions[0]
    assert first.key == "1000"
    assert first.unit == "COCO_val2014_000000000001.jpg"
    assert shown(first) == (
        "<image>\nIs picture 0 red?\nAnswer the question using a single word or phrase."
    )
    assert str(first.case.parts[0]).endswith("val2014/COCO_val2014_000000000001.jpg")
    assert first.case.answer == "yes"
    # Seven people say yes, three say no: whoever said no, two others did.
    run = answered("vqav2", questions, lambda q: {"1000": " Yes.\n", "2000": "No"}.get(q.key, "?"))
    assert [grade.parsed for grade in run.grades] == ["yes", "no", "", ""]
    assert [grade.score for grade in run.grades] == [1.0, pytest.approx(0.9), 0.0, 0.0]
    assert run.metrics == {
        "accuracy": pytest.approx(1.9 / 4),
        "accuracy/yes_no": 0.5,
        "accuracy/number": pytest.approx(0.9),
        "accuracy/other": 0.0,
    }
    assert run.files["vqav2_val2014_results.json"][1] == {"question_id": 2000, "answer": "no"}


def test_a_submission_of_test_dev_covers_all_of_test2015(folder: Path) -> None:
    questions = ask("vqav2", folder)
    run = answered("vqav2", questions[:2], lambda question: "The Red one!")
    assert run.metrics == {}
    assert [grade.score for grade in run.grades] == [None, None]
    assert run.files == {
        "vqav2_test-dev2015_results.json": [
            {"question_id": 1000, "answer": "red 1"},
            {"question_id": 2000, "answer": "red 1"},
            *({"question_id": 1000 * n, "answer": ""} for n in range(3, 7)),
        ]
    }


def test_llavas_question_files_ask_the_same(folder: Path) -> None:
    official = ask("vqav2", folder)
    for subset, count in (("test-dev2015", 3), ("test2015", 6)):
        lines = [
            {
                "question_id": 1000 * n,
                "image": f"COCO_test2015_{n:012}.jpg",
                "text": "What color is the wall?\nAnswer the question using a single word or "
                "phrase.",
                "category": "default",
            }
            for n in range(1, count + 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"llava_vqav2_mscoco_{subset}.jsonl").write_text(text)
        (folder / f"v2_OpenEnded_mscoco_{subset}_questions.json").unlink()
    again = ask("vqav2", folder)
    assert [(q.key, q.case) for q in again] == [(q.key, q.case) for q in official]
    assert again[0].extra == official[0].extra


def test_plain_layout_is_open_flamingos_and_ends_where_the_next_example_starts(
    folder: Path,
) -> None:
    questions = ask("vqav2", folder, "val", layout="plain")
    assert shown(questions[0]) == "<image>Question:Is picture 0 red? Short answer:"
    run = answered("vqav2", questions, lambda question: " yesQuestion:What")
    assert run.metrics["accuracy"] == 1.0


def other_subset(content: dict[str, Any]) -> None:
    content["data_subtype"] = "train2014"


def lose_one(content: dict[str, Any]) -> None:
    del content["annotations"][1]


def one_more(content: dict[str, Any]) -> None:
    content["annotations"].append({**content["annotations"][0], "question_id": 77})


def other_image(content: dict[str, Any]) -> None:
    content["annotations"][2]["image_id"] = 9


def twice(content: dict[str, Any]) -> None:
    content["annotations"].append(content["annotations"][0])


def no_answers(content: dict[str, Any]) -> None:
    content["annotations"][0]["answers"] = []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_subset, r"answers of the subset 'train2014', but .* is of 'val2014'"),
        (lose_one, r"questions\[1\]: question 2000 has no answers in v2_mscoco_val2014"),
        (one_more, r"annotations\[4\]: answers to question 77, which .* does not hold"),
        (other_image, r"annotations\[2\]: question 3000 is about image 9, but in .* about 3"),
        (twice, r"annotations\[4\]: the question id '1000' stands twice, first at .*\[0\]"),
        (no_answers, r"annotations\[0\]: question 1000 has no answers; download the file again"),
    ],
)
def test_answers_of_another_version_are_refused(folder: Path, change: Any, said: str) -> None:
    edit(folder / f"{ANSWERS}.json", change)
    with pytest.raises(UserError, match=said):
        ask("vqav2", folder, "val")


def test_a_question_that_stands_twice(folder: Path) -> None:
    edit(folder / QUESTIONS, lambda content: content["questions"].append(content["questions"][0]))
    with pytest.raises(UserError, match=r"questions\[4\]: the question id '1000' stands twice"):
        ask("vqav2", folder, "val")


def test_test_dev_of_another_version_than_test2015(folder: Path) -> None:
    edit(
        folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json",
        lambda content: content["questions"][0].update(question_id=5),
    )
    with pytest.raises(UserError, match="question 5 is not in v2_OpenEnded_mscoco_test2015"):
        ask("vqav2", folder)
    (folder / "v2_OpenEnded_mscoco_test2015_questions.json").unlink()
    with pytest.raises(UserError, match=r"test2015_questions\.json or llava_.* is missing"):
        ask("vqav2", folder)


def test_a_file_of_another_kind(folder: Path) -> None:
    (folder / QUESTIONS).write_text("[]")
    with pytest.raises(UserError, match="an object is needed, found list"):
        ask("vqav2", folder, "val")
    (folder / QUESTIONS).write_text('{"questions": [{"question_id": true}]}')
    with pytest.raises(UserError, match=r"questions\[0\]: 'image_id' is missing"):
        ask("vqav2", folder, "val")
    (folder / QUESTIONS).write_text('{"questions": [{"image_id": 1, "question": 3}]}')
    with pytest.raises(UserError, match=r"questions\[0\]: 'question' must be a text, found 3"):
        ask("vqav2", folder, "val")
