"""Evaluation sets are read exactly, and every defect is named with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.eval.conftest import item, write_task
from vila_core.errors import UserError
from vila_core.eval.items import eval_folders, load_eval_set
from vila_core.eval.prompts import make_prompt


def test_prompt_interleaves_demonstrations(tmp_path: Path, images: list[str]) -> None:
    demo = {"parts": [{"image": images[1]}, {"text": " ->"}], "answer": "blue"}
    question = item("look/0", [{"image": images[0]}, {"text": " ->"}], demos=[demo])
    folder = write_task(tmp_path / "look", [question], shots=[0, 1], stop=";")
    loaded = load_eval_set(folder).items[0]
    assert make_prompt(loaded, 0, ";").text == "<image> ->"
    one_shot = make_prompt(loaded, 1, ";")
    assert one_shot.text == "<image> -> blue ; <image> ->"
    assert [path.name for path in one_shot.images] == ["b.png", "a.png"]
    assert one_shot.digest() != make_prompt(loaded, 0, ";").digest()
    assert eval_folders(tmp_path) == {"look": folder}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"items\.jsonl:2: not valid JSON"),
        ("[1]", r"items\.jsonl:2: a JSON object is needed, found list"),
        (json.dumps({"key": "k"}), r"items\.jsonl:2: the field 'type' is missing"),
        (
            json.dumps(item("ask/0", [{"text": "q"}])),
            r"items\.jsonl:2: the key 'ask/0' stands twice",
        ),
        (json.dumps(item("x", [{"image": "no.png"}])), r"items\.jsonl:2: there is no image"),
        (json.dumps(item("x", [{"image": "../up.png"}])), r"items\.jsonl:2: .* lies outside"),
        (json.dumps({**item("x", []), "chance": "?"}), r"items\.jsonl:2: could not convert"),
    ],
)
def test_a_defect_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    folder = write_task(tmp_path / "ask", [item("ask/0", [{"text": "q"}])])
    with (folder / "items.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        load_eval_set(folder)


def test_too_few_demonstrations_and_wrong_settings(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "ask", [item("ask/0", [{"text": "q"}])], shots=[4])
    with pytest.raises(UserError, match="4 shots are asked for, but the item has 0"):
        load_eval_set(folder)
    write_task(folder, [item("ask/0", [{"text": "q"}])], metrics="accuracy")
    with pytest.raises(UserError, match=r"metrics: unknown key; did you mean 'metric'"):
        load_eval_set(folder)
