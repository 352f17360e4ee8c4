"""Evaluation sets are read exactly, and every defect is named with its file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.eval.conftest import item, write_task
from vila_core.errors import UserError
from vila_core.eval.items import eval_folders, load_eval_set
from vila_core.eval.prompts import make_prompt


def test_prompt_interleaves_demonstrations(tmp_path: Path, images: list[str]) -> None:
    demos = [
        {"parts": [{"image": images[1]}, {"text": " ->"}], "answer": "blue"},
        {"parts": [{"text": "red circle ->"}], "answer": "red"},
    ]
    question = item("look/0", [{"image": images[0]}, {"text": " ->"}], demos=demos)
    folder = write_task(tmp_path / "look", [question], shots=[2, 0, 0], stop=";")
    task = load_eval_set(folder)
    assert task.settings.shots == (0, 2)
    assert (task.has_images, task.most_shots) == (True, 2)
    prompts = [make_prompt(task.items[0], shots, ";") for shots in (0, 1, 2)]
    assert [prompt.text for prompt in prompts] == [
        "<image> ->",
        "<image> -> blue ; <image> ->",
        "<image> -> blue ; red circle -> red ; <image> ->",
    ]
    assert [[path.name for path in prompt.images] for prompt in prompts] == [
        ["a.png"],
        ["b.png", "a.png"],
        ["b.png", "a.png"],
    ]
    assert len({prompt.digest() for prompt in prompts}) == 3
    assert eval_folders(tmp_path) == {"look": folder}


def test_prompt_digest_follows_text_and_pixels(tmp_path: Path, images: list[str]) -> None:
    asked = [item("a", [{"image": images[0]}]), item("b", [{"image": images[1]}])]
    first, second = load_eval_set(write_task(tmp_path / "look", asked)).items
    digest = make_prompt(first, 0, ".").digest()
    assert digest != make_prompt(second, 0, ".").digest()
    (tmp_path / "look" / images[1]).write_bytes((tmp_path / "look" / images[0]).read_bytes())
    assert digest == make_prompt(second, 0, ".").digest()
    known: dict[Path, bytes] = {}
    assert digest == make_prompt(first, 0, ".").digest(known)
    assert list(known) == [tmp_path / "look" / images[0]]


def test_a_question_in_words_sees_images_in_its_demonstrations(
    tmp_path: Path, images: list[str]
) -> None:
    demo = {"parts": [{"image": images[0]}], "answer": "red"}
    folder = write_task(tmp_path / "look", [item("k", [{"text": "q"}], demos=[demo])])
    assert load_eval_set(folder).has_images


def line(**changes: Any) -> str:
    return json.dumps({**item("x", [{"text": "q"}]), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "a JSON object is needed, found list"),
        (json.dumps({"key": "k", "parts": [{"text": "q"}], "answer": "a"}), "type: is required"),
        (line(key="ask/0"), "the key 'ask/0' stands twice, first in line 1"),
        (line(key=""), "key: '' is not valid"),
        (line(parts=[{"image": "no.png"}]), "there is no image"),
        (line(parts=[{"image": "no\x00.png"}]), "there is no image"),
        (line(parts=[{"image": "x" * 5000}]), "there is no image"),
        (line(parts=[{"image": "."}]), "there is no image"),
        (line(parts=[{"image": "../up.png"}]), "the image '../up.png' lies outside of"),
        (line(parts=[{"image": "/etc/hostname"}]), "lies outside of"),
        (line(parts=[{"text": "q", "image": "a.png"}]), "a part is {'text': …} or {'image': …}"),
        (line(parts=[{"txet": "q"}]), "parts.0.txet: unknown key; did you mean 'text'?"),
        (line(parts=["q"]), "parts.0: 'q' is not valid"),
        (line(parts=[{"text": "scene <image>"}]), "<image> inside a text is no image"),
        (line(parts=[]), "the prompt is empty"),
        (line(answer=" "), "the answer is empty"),
        (line(answer=4), "answer: 4 is not valid"),
        (line(answer=None), "answer: None is not valid"),
        (line(chance="?"), "chance: '?' is not valid"),
        (line(chance=float("nan")), "chance: nan is not valid"),
        (line(chance=1.5), "chance: 1.5 is not valid"),
        (line(type="a/b"), "type: 'a/b' is not valid"),
        (line(demos=[{"parts": [{"text": "q"}]}]), "demos.0.answer: is required"),
    ],
)
def test_a_defect_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    folder = write_task(tmp_path / "ask", [item("ask/0", [{"text": "q"}])])
    (tmp_path / "up.png").write_bytes(b"x")
    with (folder / "items.jsonl").open("a") as file:
        file.write(f"\n{text}\n")
    with pytest.raises(UserError, match=r"items\.jsonl:3: .*" + re.escape(message)):
        load_eval_set(folder)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "ask", [item("ask/0", [{"text": "q"}])])
    with (folder / "items.jsonl").open("ab") as file:
        file.write(b'\n{"key": "\xff"}\n')
    with pytest.raises(UserError, match=r"items\.jsonl:3: is not UTF-8 text"):
        load_eval_set(folder)


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    question = item("ask/0", [{"text": "a\u2028b\x85c"}])
    folder = write_task(tmp_path / "ask", [question])
    (folder / "items.jsonl").write_text(json.dumps(question, ensure_ascii=False) + "\r\n")
    (loaded,) = load_eval_set(folder).items
    assert loaded.case.parts == ("a\u2028b\x85c",)
    assert loaded.where == f"{folder / 'items.jsonl'}:1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": [4]}, r"items\.jsonl:1: 4 shots are asked for, but the item has 0"),
        ({"shots": [-1]}, r"task\.json: shots\.0: -1 is not valid"),
        ({"shots": []}, r"task\.json: shots: \(\) is not valid|task\.json: shots: \[\] is not"),
        ({"metrics": "accuracy"}, r"metrics: unknown key; did you mean 'metric'"),
        ({"metric": "cider"}, r"metric: 'cider' is not valid"),
        ({"stop": ""}, r"stop: '' is not valid"),
        ({"task": "other"}, r"task is 'other' in a folder named 'ask'"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = write_task(tmp_path / "ask", [item("ask/0", [{"text": "q"}])], **settings)
    with pytest.raises(UserError, match=message):
        load_eval_set(folder)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "ask", [])
    with pytest.raises(UserError, match=r"items\.jsonl: holds no items"):
        load_eval_set(folder)
    (folder / "items.jsonl").unlink()
    with pytest.raises(UserError, match=r"items\.jsonl: can't be read: No such file"):
        load_eval_set(folder)
    (folder / "task.json").write_text("{")
    with pytest.raises(UserError, match=r"task\.json: not valid JSON"):
        load_eval_set(folder)
