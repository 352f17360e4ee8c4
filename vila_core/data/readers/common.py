"""What all readers share: records to samples, and fields that are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from vila_core.config import Frozen
from vila_core.data.readers.folder import MISSING_IMAGE as MISSING_IMAGE
from vila_core.data.readers.folder import ImageFolder as ImageFolder
from vila_core.data.readers.folder import checked as checked
from vila_core.data.readers.folder import image_folder as image_folder
from vila_core.data.readers.lines import Line
from vila_core.data.readers.records import BROKEN_RECORD, Broken, Filtered, Record
from vila_core.data.readers.sound import not_utf8, shown, sound
from vila_core.data.sample import Sample, SetAside
from vila_core.images import BadImage, check

EMPTY_TEXT = "empty text"
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
    licence: str | None = None,
) -> Sequence[Sample | SetAside]:
    """Return the samples of a record, or why there are none.

    A defect of one sample is the whole record's; a rule that rejects one of several leaves the
    others.
    `finish` sees every sample last. It must decode the images: readers look at headers alone.
    Every sample's meta has its `source` (file and line), and its `licence`: the record's own, or
    else `licence`.
    """
    try:
        if record.broken:
            raise record.broken
        value = record.value.parsed() if isinstance(record.value, Line) else record.value
        made = convert(f"{corpus}/{shard}/{record.number:06d}", value)
        own = licence_of(value) or licence
        meta = {"source": shown(record.where), **({"licence": own} if own else {})}
        if isinstance(made, Sample):
            return [finish(sound(made, meta))]
        if not made:
            raise Broken("no sample", "the format made none of the record")
        return [_finished(corpus, finish, sound(one, meta)) for one in made]
    except UnicodeEncodeError as error:  # from the digest
        return [_aside(corpus, record, not_utf8(error))]
    except (Broken, BadImage, Filtered) as error:
        return [_aside(corpus, record, error)]


def _finished(corpus: str, finish: Callable[[Sample], Sample], sample: Sample) -> Sample | SetAside:
    try:
        return finish(sample)
    except Filtered as error:
        return SetAside(corpus, sample.key, error.reason, shown(error.detail), "rule")


def licence_of(record: Any) -> str | None:
    """Return the licence that a record names for itself."""
    for name in ("licence", "license"):
        value = record.get(name) if isinstance(record, dict) else None
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _aside(corpus: str, record: Record, error: Broken | BadImage | Filtered) -> SetAside:
    group = "rule" if isinstance(error, Filtered) else "broken"
    return SetAside(corpus, shown(record.where), error.reason, shown(error.detail), group)


def key_of(key: str, number: int) -> str:
    """Return the key of sample `number` of a record that becomes several: "mmc4/00000.1/000017"."""
    shard, _, index = key.rpartition("/")
    return f"{shard}.{number}/{index}"


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


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
