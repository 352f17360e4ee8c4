from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def write_task(folder: Path, items: list[dict[str, Any]], **settings: Any) -> Path:
    """Write an evaluation set; `settings` overrides task.json."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"task": folder.name, "max_new_tokens": 4, **settings}
    (folder / "task.json").write_text(json.dumps(values))
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def item(key: str, parts: list[dict[str, str]], answer: str = "red", **more: Any) -> dict[str, Any]:
    return {"key": key, "type": "kind", "parts": parts, "answer": answer, "chance": 0.25, **more}


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Two images inside `tmp_path/look/images`, named as an item names them."""
    folder = tmp_path / "look" / "images"
    folder.mkdir(parents=True)
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (32, 32), color).save(folder / name)
    return ["images/a.png", "images/b.png"]
