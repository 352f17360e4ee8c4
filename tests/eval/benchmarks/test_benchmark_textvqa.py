from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import make_textvqa
from vila_core.errors import UserError

SHORT = "Answer the question using a single word or phrase."
LLAVA = "llava_textvqa_val_v051_ocr.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_textvqa(tmp_path)


def test_prompts_with_and_without_ocr_tokens(folder: Path) -> None:
    assert shown(ask("textvqa", folder)[0]) == (
        f"<image>\nwhat is the brand of camera 0?\nReference OCR token: DAKOTA, DIGITAL\n{SHORT}"
    )
    assert shown(ask("textvqa", folder, ocr=False)[0]) == (
        f"<image>\nwhat is the brand of camera 0?\n{SHORT}"
    )
    assert shown(ask("textvqa", folder, layout="plain")[0]) == (
        "<image>OCR tokens: DAKOTA, DIGITAL. Question:what is the brand of camera 0? Short answer:"
    )
    assert shown(ask("textvqa", folder, layout="plain", ocr=False)[0]) == (
        "<image>Question:what is the brand of camera 0? Short answer:"
    )


def test_without_ocr_no_file_of_tokens_is_needed(folder: Path) -> None:
    (folder / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    assert len(ask("textvqa", folder, ocr=False)) == 3
    with pytest.raises(UserError, match=f"annotation file {LLAVA} or .* is missing"):
        ask("textvqa", folder)


def llava_lines(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "question_id": question.unit,
            "image": f"{question.unit}.jpg",
            "text": f"What is the brand of camera {n}?\nReference OCR token: Kodak, {n}\n{SHORT}",
            "category": "default",
        }
        for n, question in enumerate(ask("textvqa", folder, ocr=False))
    ]


def test_llavas_tokens_come_first(folder: Path) -> None:
    lines = llava_lines(folder)
    (folder / LLAVA).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "\nReference OCR token: Kodak, 2\n" in shown(ask("textvqa", folder)[2])
    (folder / LLAVA).write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    with pytest.raises(UserError, match=rf"data\[2\]: {LLAVA} has no OCR tokens for image val"):
        ask("textvqa", folder)


def test_scores_are_m4cs(folder: Path) -> None:
    questions = ask("textvqa", folder)
    replies = ["Dakota!", "dakota digital", "nous les gosses"]
    said = dict(zip([question.key for question in questions], replies, strict=True))
    run = answered("textvqa", questions, lambda question: said[question.key])
    assert [grade.parsed for grade in run.grades] == [
        "dakota",
        "dakota digital",
        "nous les gosses",
    ]
    # Three people of ten say "dakota digital": seven times 1, three times 2/3; one of ten: 9 x 1/3.
    assert [grade.score for grade in run.grades] == [1.0, pytest.approx(0.9), pytest.approx(0.3)]
    assert run.metrics == {"accuracy": pytest.approx(2.2 / 3)}


def test_test_is_for_the_server(folder: Path) -> None:
    run = answered("textvqa", ask("textvqa", folder, "test"), lambda question: "Kodak.")
    assert run.metrics == {}
    assert run.files["textvqa_test_results.json"][0] == {"question_id": 39602, "answer": "kodak"}


def test_broken_files(folder: Path) -> None:
    path = folder / "TextVQA_0.5.1_val.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"dataset_version": "0.5"}))
    with pytest.raises(UserError, match=r"dataset_version is '0\.5', '0\.5\.1' is needed"):
        ask("textvqa", folder)
    path.write_text(json.dumps(content | {"data": content["data"] * 2}))
    with pytest.raises(UserError, match=r"data\[3\]: the question id '34602' stands twice"):
        ask("textvqa", folder)
    content["data"][1]["answers"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"data\[1\]: the question has no answers"):
        ask("textvqa", folder)
    content["data"][1]["answers"] = "dakota"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"'answers' must be a list of texts, found 'dakota'"):
        ask("textvqa", folder)
