"""Evaluation sets as they lie on disk: `task.json`, `items.jsonl`, and images beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vila_core.config import Frozen, validate
from vila_core.errors import UserError

TASK_FILE, ITEMS_FILE = "task.json", "items.jsonl"


class TaskSettings(Frozen):
    """How a task is asked and scored: the content of task.json."""

    task: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="name in metric keys")
    metric: Literal["accuracy", "bleu"] = Field(
        "accuracy", description="accuracy: exact match; bleu: exact match and BLEU-4"
    )
    shots: tuple[int, ...] = Field((0,), description="numbers of demonstrations to ask with")
    blind: bool = Field(True, description="ask again with the images replaced by grey")
    max_new_tokens: int = Field(8, gt=0, description="longest answer")
    stop: str = Field(".", min_length=1, description="ends an answer; also joins demonstrations")


@dataclass(frozen=True)
class Case:
    """A prompt up to where its answer starts, text and images in order, and that answer."""

    parts: tuple[str | Path, ...]
    answer: str


@dataclass(frozen=True)
class Item:
    """One question with its name for life, its type, its chance level and its demonstrations."""

    key: str
    type: str
    case: Case
    chance: float
    demos: tuple[Case, ...] = ()

    @property
    def has_images(self) -> bool:
        """Whether the question shows an image."""
        return any(isinstance(part, Path) for part in self.case.parts)


@dataclass(frozen=True)
class EvalSet:
    """A task's settings and its items, in the order of the file."""

    settings: TaskSettings
    items: tuple[Item, ...]

    @property
    def has_images(self) -> bool:
        """Whether any question shows an image."""
        return any(item.has_images for item in self.items)


def load_eval_set(folder: Path) -> EvalSet:
    """Read one task's folder.

    Raises UserError, naming file and line, for broken JSON, a missing field or image, a key that
    stands twice, or fewer demonstrations than the task's shots ask for.
    """
    settings = validate(
        TaskSettings, _read_settings(folder / TASK_FILE), where=str(folder / TASK_FILE)
    )
    path = folder / ITEMS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        item = _item(_parse(line, where), folder, where)
        if item.key in items:
            raise UserError(f"{where}: the key '{item.key}' stands twice; keys must be unique.")
        if len(item.demos) < max(settings.shots):
            raise UserError(
                f"{where}: {max(settings.shots)} shots are asked for, but the item has "
                f"{len(item.demos)} demonstrations; add some or lower `shots` in {TASK_FILE}."
            )
        items[item.key] = item
    if not items:
        raise UserError(f"{path}: holds no items.")
    return EvalSet(settings, tuple(items.values()))


def eval_folders(root: Path) -> dict[str, Path]:
    """Return the folders of all tasks below `root`, by folder name."""
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{TASK_FILE}"))}


def _read_settings(path: Path) -> Mapping[str, Any]:
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON object is needed, found {type(value).__name__}.")
    return value


def _item(value: Mapping[str, Any], folder: Path, where: str) -> Item:
    try:
        return Item(
            key=str(value["key"]),
            type=str(value["type"]),
            case=_case(value, folder, where),
            chance=float(value["chance"]),
            demos=tuple(_case(demo, folder, where) for demo in value.get("demos", ())),
        )
    except KeyError as error:
        raise UserError(f"{where}: the field {error} is missing.") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def _case(value: Mapping[str, Any], folder: Path, where: str) -> Case:
    parts = tuple(_part(part, folder, where) for part in _list(value["parts"], where))
    return Case(parts, str(value["answer"]))


def _part(part: Mapping[str, Any], folder: Path, where: str) -> str | Path:
    if "text" in part:
        return str(part["text"])
    path = folder / str(part["image"])
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{where}: the image '{part['image']}' lies outside of {folder}.")
    if not path.is_file():
        raise UserError(f"{where}: there is no image {path}; put it there or drop the item.")
    return path


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where}: parts: a list is needed, found {type(value).__name__}.")
    return value
