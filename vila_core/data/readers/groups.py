"""Samples from records that are groups of files: images with a text, a JSON, a class beside them.

The images of a record, in their order, come before its text. A JSON with `conversations` is read
as in LLaVA's format: its `<image>` tags are the places of the record's images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vila_core.data.readers.common import EMPTY_TEXT, Options, get_text, licence_of
from vila_core.data.readers.llava import conversation
from vila_core.data.readers.members import Group
from vila_core.data.readers.records import BROKEN_RECORD, Broken
from vila_core.data.sample import Image, Sample, Text, make_sample
from vila_core.errors import UserError

_NOT_META = (
    "conversations",
    "licence",
    "license",
    "exif",
    "status",
    "error_message",
    "key",
    "source",
)


class GroupOptions(Options):
    """Where the text of a record is."""

    text: tuple[str, ...] = Field(
        default=("txt", "caption", "text", "json", "cls"),
        min_length=1,
        description="kinds of files that may hold the text; the first one that is there does",
    )
    fields: tuple[str, ...] = Field(
        default=("caption", "text"),
        min_length=1,
        description="fields of the JSON that may hold the text, in this order",
    )
    classes: str | None = Field(
        default=None, description="file with a class's name per line; `cls` then is a line number"
    )


class Converter:
    """Makes captioned images, or conversations. Images are where the record says."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, GroupOptions)
        self._options = options
        self._classes = _lines(options.classes) if options.classes else None

    def __call__(self, key: str, group: Any) -> Sample:
        """Return the sample of a group."""
        assert isinstance(group, Group)
        about = group.member("json")
        record = group.object(about) if about else {}
        meta = self._meta(group, record)
        if "conversations" in record:
            return conversation(key, record, group.images(), meta)
        text = self._text(group, record)
        images = group.images()
        parts = [*map(Image, range(len(images))), Text(text)]
        return make_sample(key, "caption", parts, images, meta)

    def _text(self, group: Group, record: dict[str, Any]) -> str:
        for kind in self._options.text:
            member = group.member(kind)
            if member is None:
                continue
            if kind == "json":
                name = next((name for name in self._options.fields if name in record), None)
                if name is None:
                    continue
                return get_text(record, name)
            text = group.text(member)
            if kind == "cls" and self._classes is not None:
                return _class(text, self._classes)
            if not text:
                raise Broken(EMPTY_TEXT, f"{group.name}.{member.suffix}")
            return text
        have = ", ".join(member.suffix for member in group.members)
        raise Broken(
            EMPTY_TEXT, f"{group.name} has {have}; none of {', '.join(self._options.text)}"
        )

    def _meta(self, group: Group, record: dict[str, Any]) -> dict[str, Any]:
        """Return the plain fields of the JSON: sizes, scores, origin; its id, or else the name."""
        left = {*_NOT_META, *self._options.fields}
        meta = {
            name: value
            for name, value in record.items()
            if name not in left and (value is None or isinstance(value, str | int | float))
        }
        licence = licence_of(record)
        return {"id": group.name, **meta, **({"licence": licence} if licence else {})}


def _class(text: str, classes: list[str]) -> str:
    if not text.isdecimal() or len(text) > 9 or int(text) >= len(classes):
        raise Broken(BROKEN_RECORD, f"class {text!r}, the file of classes has {len(classes)} lines")
    return classes[int(text)]


def _lines(name: str) -> list[str]:
    path = Path(name).expanduser()
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"options.classes: {path}: can't be read: {error}") from None
