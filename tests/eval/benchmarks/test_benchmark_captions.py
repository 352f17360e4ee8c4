from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.benchmarks.ends import answered, ask, shown
from tests.eval.benchmarks.samples_vqa import make_coco_caption, make_flickr30k
from vila_core.errors import UserError
from vila_core.eval.benchmark import Question
from vila_core.eval.scorers.captions import bleu4, cider, rouge_l

CAPTION = "Provide a one-sentence caption for the provided image."


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return make_coco_caption(tmp_path)


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    return make_flickr30k(tmp_path)


def test_metrics_are_those_of_the_whole_set(coco: Path) -> None:
    questions = ask("coco_caption", coco)
    assert shown(questions[0]) == f"<image>\n{CAPTION}"
    replies = ['A "red" wall without a window.', "A large green wall", "nothing"]
    said = dict(zip([question.key for question in questions], replies, strict=True))
    run = answered("coco_caption", questions, lambda question: said[question.key])
    captions = ["A red wall without a window.", "A large green wall", "nothing"]
    references = [question.references for question in questions]
    whole = cider(captions, references)
    assert [grade.parsed for grade in run.grades] == captions
    assert [grade.score for grade in run.grades] == whole.per_sample
    assert run.metrics == {
        "cider": pytest.approx(whole.score),
        "bleu4": pytest.approx(bleu4(captions, references).score),
        "rouge_l": pytest.approx(rouge_l(captions, references).score),
    }
    assert run.metrics["cider"] > 0.5
    assert {grade.detail["tokeniser"] for grade in run.grades} == {whole.tokeniser}
    assert run.files["captions_test_results.json"][1] == {
        "image_id": 2,
        "caption": "A large green wall",
    }


def test_restval_is_part_of_train(coco: Path) -> None:
    train = ask("coco_caption", coco, "train")
    assert [question.key for question in train] == [str(n) for n in range(4, 10)]
    assert {str(q.case.parts[0]).split("/")[-2] for q in train} == {"val2014", "train2014"}
    assert train[0].case.answer == "A yellow wall without a window."


def test_cocos_own_annotations(coco: Path) -> None:
    karpathy, official = ask("coco_caption", coco), ask("coco_caption", coco, "val2014")
    assert [(q.key, q.references) for q in official] == [(q.key, q.references) for q in karpathy]
    content = json.loads((coco / "captions_val2014.json").read_text())
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 2]
    (coco / "captions_val2014.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"images\[1\]: image 2 has no captions"):
        ask("coco_caption", coco, "val2014")


def test_plain_layout(coco: Path) -> None:
    questions = ask("coco_caption", coco, layout="plain")
    assert shown(questions[0]) == "<image>Output:"

    def reply(question: Question) -> str:
        return f" {question.references[0]}Output:A dog"

    run = answered("coco_caption", questions, reply)
    assert [grade.parsed for grade in run.grades] == [q.references[0] for q in questions]


def test_flickr30k(flickr: Path) -> None:
    questions = ask("flickr30k", flickr)
    assert [question.key for question in questions] == ["1000", "1001", "1002"]
    run = answered("flickr30k", questions, lambda question: question.references[1])
    assert run.metrics["bleu4"] == pytest.approx(1.0)
    assert run.files["flickr30k_test_results.json"][0]["image_id"] == 1000


@pytest.mark.parametrize("name", ["results_20130124.token", "results.csv"])
def test_flickr30ks_own_list_with_the_splits_of_entities(flickr: Path, name: str) -> None:
    karpathy = ask("flickr30k", flickr)
    (flickr / "dataset_flickr30k.json").unlink()
    lines = [] if name.endswith("token") else ["image_name| comment_number| comment"]
    for question in karpathy:
        for n, caption in enumerate(question.references):
            # The second caption as in the line of the published file that lacks a bar.
            bar = " |" if n == 0 else " "
            token = f"{question.key}.jpg#{n}\t{caption}"
            csv = f"{question.key}.jpg| {n}{bar} {caption}"
            lines.append(token if name.endswith("token") else csv)
    (flickr / name).write_text("\n".join(lines) + "\n")
    (flickr / "test.txt").write_text("1000\n1001\n1002.jpg\n")
    listed = ask("flickr30k", flickr)
    assert [(q.key, q.case, q.references) for q in listed] == [
        (q.key, q.case, q.references) for q in karpathy
    ]
    (flickr / "test.txt").write_text("1000\n77\n")
    with pytest.raises(UserError, match=f"test.txt:2: image 77 has no captions in {name}"):
        ask("flickr30k", flickr)
    (flickr / name).write_text("\n".join([*lines, "1003.jpg"]))
    with pytest.raises(UserError, match=rf"{name}:\d: holds no caption"):
        ask("flickr30k", flickr)


def test_broken_karpathy_files(flickr: Path) -> None:
    path = flickr / "dataset_flickr30k.json"
    with pytest.raises(UserError, match="holds no images of the split 'val'"):
        ask("flickr30k", flickr, "val")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"images": [content["images"][0]] * 2}))
    with pytest.raises(UserError, match=r"images\[1\]: the question id '1000' stands twice"):
        ask("flickr30k", flickr)
    content["images"][2]["sentences"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"images\[2\]: the image has no captions"):
        ask("flickr30k", flickr)
