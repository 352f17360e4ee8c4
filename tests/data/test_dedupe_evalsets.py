"""Evaluation sets as they lie on disk, learned by the judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.make import noise, write_images, write_lines
from vila_core.data.dedupe import DedupeConfig, Judge, Signer
from vila_core.data.sample import Image, Text, make_sample
from vila_core.errors import UserError
from vila_core.stages.evalsets import eval_items

CONFIG = DedupeConfig(perceptual=False)
DEMO = {"parts": [{"image": "demo.jpg"}, {"text": "what? "}], "answer": "a demonstration"}


def write_set(root: Path, name: str = "bench") -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "task.json").write_text(json.dumps({"task": name}))
    images = {"a.jpg": noise(1), "b.jpg": noise(2), "demo.jpg": noise(3)}
    write_images(root / name, images)
    rows = [
        {"parts": [{"text": "left of "}, {"image": image}, {"text": "is? "}], "answer": "a cat"}
        for image in ("a.jpg", "b.jpg", "a.jpg")
    ]
    write_lines(
        root / name / "items.jsonl",
        [
            {**row, "key": f"q{n}", "type": "t", "chance": 0, "demos": [DEMO]}
            for n, row in enumerate(rows)
        ],
    )
    return root


def test_items_hold_question_answer_and_each_image_once(tmp_path: Path) -> None:
    sets = eval_items(write_set(tmp_path))
    assert list(sets) == ["bench"]
    items = list(sets["bench"])
    assert [item.key for item in items] == ["q0", "q1", "q2"]
    assert items[0].texts == ("left of  is? ", "a cat")
    assert [item.images for item in items] == [(noise(1),), (noise(2),), ()]


def test_the_judge_learns_them(tmp_path: Path) -> None:
    judge = Judge(CONFIG)
    for name, items in eval_items(write_set(tmp_path)).items():
        learned = judge.learn_eval(name, items)
        assert learned is not None
        assert (learned.items, learned.images, learned.texts) == (3, 2, 0)
    verdicts = []
    for seed in (2, 3):
        sample = make_sample("c/0/000000", "caption", [Image(0), Text("x")], [noise(seed)])
        verdicts.append(judge.check(sample.key, Signer(CONFIG)(sample)))
    assert verdicts[0] is not None
    assert verdicts[0].other == "bench/q1"
    assert verdicts[1] is None  # of a demonstration


def test_a_broken_set_is_named(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "bench" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"items.jsonl:2: there is no image"):
        Judge(CONFIG).learn_eval("bench", eval_items(root)["bench"])
