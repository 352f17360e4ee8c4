"""Evaluation sets as they lie on disk: `task.json`, `items.jsonl`, and images beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vila_core.config import Frozen, validate
from vila_core.errors import UserError
from vila_core.eval.files import ImageRef

TASK_FILE, ITEMS_FILE = "task.json", "items.jsonl"
IMAGE = "<image>"

Shots = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
"""Numbers of demonstrations to ask with."""


class TaskSettings(Frozen):
    """How a task is asked and scored: the content of task.json."""

    task: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="name in metric keys")
    metric: Literal["accuracy", "bleu", "chrf"] = Field(
        default="accuracy", description="accuracy: exact match; bleu, chrf: exact match, and that"
    )
    shots: Shots = Field(default=(0,), description="numbers of demonstrations to ask with")
    blind: bool = Field(default=True, description="ask again with the images replaced by grey")
    max_new_tokens: int = Field(default=8, gt=0, description="longest answer")
    stop: str = Field(
        default=".", min_length=1, description="ends an answer; also joins demonstrations"
    )

    @field_validator("shots")
    @classmethod
    def _each_once(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(shots)))


class _Part(Frozen):
    text: str | None = None
    image: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> _Part:
        if (self.text is None) == (self.image is None):
            raise ValueError("a part is {'text': …} or {'image': …}")
        if self.text is not None and IMAGE in self.text:
            raise ValueError(f"{IMAGE} inside a text is no image; make it a part of its own")
        return self


class _Case(Frozen):
    parts: tuple[_Part, ...]
    answer: str

    @model_validator(mode="after")
    def _asks_and_answers(self) -> _Case:
        if not any(part.image or (part.text or "").strip() for part in self.parts):
            raise ValueError("the prompt is empty")
        if not self.answer.strip():
            raise ValueError("the answer is empty, and an empty answer never counts as right")
        return self


class _Line(_Case):
    """One line of items.jsonl."""

    key: str = Field(min_length=1)
    type: str = Field(pattern=r"^[^/@.\s]+$", description="stands in metric keys")
    chance: float = Field(ge=0, le=1)
    demos: tuple[_Case, ...] = ()


@dataclass(frozen=True)
class Case:
    """A prompt up to where its answer starts, text and images in order, and that answer."""

    parts: tuple[str | ImageRef, ...]
    answer: str


@dataclass(frozen=True)
class Item:
    """One question with its name for life, its type, its chance level and its demonstrations.

    `where` is the file and line that it comes from.
    """

    key: str
    type: str
    case: Case
    chance: float
    demos: tuple[Case, ...] = ()
    where: str = ""

    @property
    def has_images(self) -> bool:
        """Whether the question or a demonstration shows an image."""
        cases = (self.case, *self.demos)
        return any(not isinstance(part, str) for case in cases for part in case.parts)


@dataclass(frozen=True)
class EvalSet:
    """A task's settings and its items, in the order of the file."""

    settings: TaskSettings
    items: tuple[Item, ...]

    @property
    def has_images(self) -> bool:
        """Whether any question or demonstration shows an image."""
        return any(item.has_images for item in self.items)

    @property
    def most_shots(self) -> int:
        """The number of demonstrations that every item has."""
        return min(len(item.demos) for item in self.items)


def load_eval_set(folder: Path) -> EvalSet:
    """Read one task's folder.

    Raises UserError, naming file and line, for broken JSON, a missing, unknown or wrong field, an
    image that is missing or lies outside, a key that stands twice, or fewer demonstrations than the
    task's shots ask for.
    """
    path = folder / TASK_FILE
    settings = validate(TaskSettings, _parse(_read(path), str(path)), where=str(path))
    if settings.task != folder.name:
        raise UserError(
            f"{path}: task is '{settings.task}' in a folder named '{folder.name}'; give both the "
            "same name"
        )
    path = folder / ITEMS_FILE
    images = _Images(folder)
    items: list[Item] = []
    lines: dict[str, int] = {}
    # Only "\n" ends a line: str.splitlines would also cut at U+2028 and others inside a text.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        item = _item(validate(_Line, _parse(line, where), where=where), images, where)
        if item.key in lines:
            raise UserError(
                f"{where}: the key '{item.key}' stands twice, first in line {lines[item.key]}; "
                "rename or delete one of them"
            )
        if len(item.demos) < max(settings.shots):
            raise UserError(
                f"{where}: {max(settings.shots)} shots are asked for, but the item has "
                f"{len(item.demos)} demonstrations; add some or lower `shots` in {TASK_FILE}"
            )
        lines[item.key] = number
        items.append(item)
    if not items:
        raise UserError(f"{path}: holds no items; add some or delete the folder")
    return EvalSet(settings, tuple(items))


def eval_folders(root: Path) -> dict[str, Path]:
    """Return the folders of all tasks below `root`, by folder name."""
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{TASK_FILE}"))}


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 text; save the file as UTF-8") from None


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not valid JSON: {error.msg} at column {error.colno}; mend or delete it"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: nested too deeply; delete it") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON object is needed, found {type(value).__name__}")
    return value


def _item(line: _Line, images: _Images, where: str) -> Item:
    return Item(
        key=line.key,
        type=line.type,
        case=images.case(line, where),
        chance=line.chance,
        demos=tuple(images.case(demo, where) for demo in line.demos),
        where=where,
    )


class _Images:
    """The image files of a task's folder, each looked at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder.resolve()
        self._known: dict[str, Path] = {}

    def case(self, case: _Case, where: str) -> Case:
        """Return a case with its images as paths."""
        parts = [self._path(p.image, where) if p.image is not None else p.text for p in case.parts]
        return Case(tuple(part for part in parts if part is not None), case.answer)

    def _path(self, name: str, where: str) -> Path:
        if name not in self._known:
            path = self._folder / name
            try:
                inside = path.resolve().is_relative_to(self._root)
                there = path.is_file()
            except (OSError, ValueError):  # too long, or with a null character
                inside, there = True, False
            if not inside:
                raise UserError(f"{where}: the image '{name}' lies outside of {self._folder}")
            if not there:
                raise UserError(f"{where}: there is no image {path}; put it there or drop the item")
            self._known[name] = path
        return self._known[name]
