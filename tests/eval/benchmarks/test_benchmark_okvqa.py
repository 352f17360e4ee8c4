from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import make_okvqa
from vila_core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_okvqa(tmp_path)


def test_answers_are_stemmed_as_the_official_ones_are(folder: Path) -> None:
    questions = ask("okvqa", folder)
    assert questions[0].references == ("surf",) * 6 + ("surf board",) * 4
    assert questions[0].case.answer == "surfing"  # as people wrote it
    replies = {"1000": "Surfing", "2000": "surf boards", "3000": "boards", "4000": "surf"}
    run = answered("okvqa", questions, lambda question: replies[question.key])
    assert [grade.parsed for grade in run.grades] == ["surf", "surf board", "board", "surf"]
    assert [grade.score for grade in run.grades] == [1.0, 1.0, 0.0, 1.0]
    assert run.metrics == {
        "accuracy": 0.75,
        "accuracy/vehicles_and_transportation": 0.5,
        "accuracy/sports_and_recreation": 1.0,
        "accuracy_unstemmed": 0.25,
    }


def test_prompts(folder: Path) -> None:
    assert shown(ask("okvqa", folder, "train")[5]) == (
        "<image>\nWhat sport is this?\nAnswer the question using a single word or phrase."
    )
    plain = ask("okvqa", folder, "train", layout="plain")[5]
    assert shown(plain) == "<image>Question:What sport is this? Short answer:"


def test_answers_of_another_split_are_refused(folder: Path) -> None:
    answers = folder / "mscoco_val2014_annotations.json"
    answers.write_text((folder / "mscoco_train2014_annotations.json").read_text())
    with pytest.raises(UserError, match="answers of the subset 'train2014'"):
        ask("okvqa", folder)
    content = json.loads(answers.read_text())
    del content["data_subtype"]
    answers.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"answers to question 5000, which .* does not hold"):
        ask("okvqa", folder)
