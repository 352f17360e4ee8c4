"""What all readers share: the walk over records, fields that are checked, images from a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vila_core.config import Frozen
from vila_core.data.readers.files import Broken, corpus_files
from vila_core.data.sample import Sample, SetAside
from vila_core.images import BadImage, check

MISSING_IMAGE, EMPTY_TEXT, BROKEN_RECORD = "missing image", "empty text", "broken record"
T = TypeVar("T")


class Options(Frozen):
    """A reader's options. A format with options of its own has a class of its own."""


def read_records(
    path: Path, corpus: str, convert: Callable[[str, Any], Sample]
) -> Iterator[Sample | SetAside]:
    """Convert every record below `path`, in file and record order.

    `convert(key, record)` raises Broken or BadImage for a record that can't be used.
    """
    for file in corpus_files(path):
        for record in file.records():
            key = f"{corpus}/{file.shard}/{record.number:06d}"
            try:
                if record.broken:
                    raise record.broken
                yield convert(key, record.value)
            except (Broken, BadImage) as error:
                yield SetAside(corpus, record.where, error.reason, error.detail)


def get(record: Any, name: str, kind: type[T]) -> T:
    """Return a field of a record. Raises Broken when it is missing or of another type."""
    if not isinstance(record, dict):
        raise Broken(BROKEN_RECORD, f"an object is expected, found {_kind(record)}")
    if name not in record:
        raise Broken(BROKEN_RECORD, f"'{name}' is missing")
    value = record[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Broken(BROKEN_RECORD, f"'{name}' is {_kind(value)}, expected {kind.__name__}")
    return value


def get_text(record: Any, name: str) -> str:
    """Return a text field without the blanks around it. Raises Broken when nothing is left."""
    text = (
        "" if isinstance(record, dict) and record.get(name, "") is None else get(record, name, str)
    )
    if not text.strip():
        raise Broken(EMPTY_TEXT, f"'{name}'")
    return text.strip()


class ImageFolder:
    """Images by their names in a corpus. Names that lead out of the folder are refused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        """Return a checked image file. Raises Broken when it is missing, BadImage when bad."""
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name or not name:
            raise Broken(BROKEN_RECORD, f"image name {name!r} leads out of the image folder")
        try:
            data = (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Broken(MISSING_IMAGE, name) from None
        return checked(data, name)


def checked(data: bytes, name: str) -> bytes:
    """Return image bytes that can be decoded. Raises BadImage that names the image."""
    try:
        check(data)
    except BadImage as error:
        raise BadImage(error.reason, f"{name}: {error.detail}") from None
    return data


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
