"""LLaVA's conversation format: one JSON list (or JSON lines), images in a folder.

`<image>` tags stay where they stand, any number of them; records without an image are text-only.
(VILA's first release moved the tag to the front and kept one: single images only.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from vila_core.data.readers.common import (
    EMPTY_TEXT,
    MISSING_IMAGE,
    ImageFolder,
    Options,
    get,
    image_folder,
)
from vila_core.data.readers.folder import IMAGE_SUFFIXES
from vila_core.data.readers.records import BROKEN_RECORD, Broken
from vila_core.data.sample import IMAGE_TAG, Part, Role, Sample, make_sample, split_tags

IMAGE_TAGS = "image tags"
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class LlavaOptions(Options):
    """How images are found."""

    any_extension: bool = Field(
        default=False, description="take 1.png or 1.gif where 1.jpg is named and missing"
    )


def columns(options: Options) -> Sequence[frozenset[str]]:
    """Return what a table needs."""
    return [frozenset({"conversations"})]


class Converter:
    """Makes conversations. `images` defaults to the folder `images` beside the file."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, LlavaOptions)
        self._folder = ImageFolder(image_folder(path, images))
        self._any_extension = options.any_extension

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the conversation of a record."""
        parts, tags = _parts(record)
        names = record.get("image") or []
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Broken(BROKEN_RECORD, "'image' is neither a file name nor a list of them")
        _same(tags, len(names))
        meta = {"id": record.get("id"), "images": names}
        if isinstance(record.get("model"), str) and record["model"]:
            meta["model"] = record["model"]  # who answered; empty in ShareGPT's part of mix665k
        return _made(key, parts, [self._image(name) for name in names], meta)

    def _image(self, name: str) -> bytes:
        try:
            return self._folder.read(name)
        except Broken as error:
            if error.reason != MISSING_IMAGE or not self._any_extension:
                raise
            found = self._folder.find(name.rpartition(".")[0] or name, IMAGE_SUFFIXES)
            if found is None:
                raise
        return self._folder.read(found)


def conversation(
    key: str, record: dict[str, Any], images: Sequence[bytes], meta: dict[str, Any]
) -> Sample:
    """Return the conversation of a record whose images are there, one per `<image>` tag."""
    parts, tags = _parts(record)
    _same(tags, len(images))
    return _made(key, parts, images, meta)


def _parts(record: Any) -> tuple[list[Part], int]:
    """Return the parts of a record's turns, and how many images they have places for."""
    parts: list[Part] = []
    tags = 0
    for role, text in _turns(get(record, "conversations", list)):
        if role == "assistant" and not text.strip():
            raise Broken(EMPTY_TEXT, "an answer of 'gpt'")
        found, tags = split_tags(text, role, tags)
        parts += found
    return parts, tags


def _same(tags: int, images: int) -> None:
    if images != tags:
        raise Broken(IMAGE_TAGS, f"{tags} {IMAGE_TAG} tags, {images} images")


def _made(key: str, parts: list[Part], files: Sequence[bytes], meta: dict[str, Any]) -> Sample:
    return make_sample(key, "conversation" if files else "text-only", parts, files, meta)


def _turns(values: list[Any]) -> list[tuple[Role, str]]:
    """Return roles and texts; a first turn of the assistant is dropped, as in LLaVA."""
    turns: list[tuple[Role, str]] = []
    for value in values:
        speaker = get(value, "from", str)
        if speaker not in _ROLES:
            raise Broken(BROKEN_RECORD, f"'from' is {speaker!r}, expected human or gpt")
        role = _ROLES[speaker]
        last = turns[-1][0] if turns else None
        if role == "assistant" and last in (None, "system"):
            continue
        if role == last or (role == "system" and turns):
            raise Broken(BROKEN_RECORD, f"turn {len(turns)}: {speaker} follows {last}")
        turns.append((role, get(value, "value", str)))
    if not any(role == "assistant" for role, _ in turns):
        raise Broken(EMPTY_TEXT, "no answer of 'gpt'")
    return turns
