"""What all readers share: records to samples, fields that are checked, images from a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vila_core.config import Frozen
from vila_core.data.readers.files import Broken, Filtered, Record
from vila_core.data.sample import Sample, SetAside
from vila_core.images import BadImage, check, check_header

MISSING_IMAGE, EMPTY_TEXT, BROKEN_RECORD = "missing image", "empty text", "broken record"
T = TypeVar("T")


class Options(Frozen):
    """A reader's options. A format with options of its own has a class of its own."""


Convert = Callable[[str, Any], Sample | Sequence[Sample]]
"""Turns key and value of a record into its sample, or into several, with keys of `key_of`.

Raises Broken or BadImage for a record that can't be used, Filtered when a rule leaves it out.
"""


def prove(sample: Sample) -> Sample:
    """Return the sample if all its images can be decoded. Raises BadImage that says which can't."""
    for number, image in enumerate(sample.images, start=1):
        try:
            check(image)
        except BadImage as error:
            raise of_image(error, number, sample) from None
    return sample


def of_image(error: BadImage, number: int, sample: Sample) -> BadImage:
    """Return `error` with the image that it is about, by name or counted from 1, in its detail."""
    names = sample.meta.get("images")
    name: Any = names[number - 1] if isinstance(names, list) and number <= len(names) else None
    if isinstance(name, dict):
        name = name.get("image_name")
    if name is None and len(sample.images) > 1:
        name = f"image {number} of {len(sample.images)}"
    return BadImage(error.reason, f"{name}: {error.detail}" if name else error.detail)


def converted(
    corpus: str,
    shard: str,
    record: Record,
    convert: Convert,
    finish: Callable[[Sample], Sample] = prove,
) -> Sequence[Sample | SetAside]:
    """Return the samples of a record, or why there are none.

    `finish` sees every sample last. It must decode the images: readers look at headers alone.
    """
    try:
        if record.broken:
            raise record.broken
        made = convert(f"{corpus}/{shard}/{record.number:06d}", record.value)
        return [finish(sample) for sample in ([made] if isinstance(made, Sample) else made)]
    except (Broken, BadImage) as error:
        return [SetAside(corpus, record.where, error.reason, error.detail)]
    except Filtered as error:
        return [SetAside(corpus, record.where, error.reason, error.detail, "rule")]


def key_of(key: str, number: int) -> str:
    """Return the key of sample `number` of a record that becomes several: "mmc4/00000.1/000017"."""
    shard, _, index = key.rpartition("/")
    return f"{shard}.{number}/{index}"


def image_folder(path: Path, images: Path | None) -> Path:
    """Return where a corpus's images lie: `images`, or the folder of that name beside the file."""
    return images or (path if path.is_dir() else path.parent) / "images"


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
        """Return an image file. Raises Broken when it is missing, BadImage for a bad header."""
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name or not name:
            raise Broken(BROKEN_RECORD, f"image name {name!r} leads out of the image folder")
        try:
            data = (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Broken(MISSING_IMAGE, name) from None
        return checked(data, name)


def checked(data: bytes, name: str) -> bytes:
    """Return image bytes whose header is sound. Raises BadImage that names the image."""
    try:
        check_header(data)
    except BadImage as error:
        raise BadImage(error.reason, f"{name}: {error.detail}") from None
    return data


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
