"""The last look at a sample before it is kept: whether its text and meta can be written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vila_core.data.readers.records import BROKEN_RECORD, Broken
from vila_core.data.sample import Sample, Text
from vila_core.jsonio import dumps

BROKEN_TEXT = "broken text"
_MAX_DEPTH = 8
_MAX_SHOWN = 300


def sound(sample: Sample, meta: Mapping[str, Any]) -> Sample:
    """Return the sample with `meta` added to what its reader put into its own, which goes first.

    Raises Broken for NUL characters in its text, and for meta that can't be written as UTF-8.
    Numbers in meta that JSON doesn't have (NaN, infinities) become null.
    """
    for part in sample.parts:
        if isinstance(part, Text) and "\0" in part.text:
            raise Broken(BROKEN_TEXT, "holds NUL characters")
    merged = {name: _plain(value, 0) for name, value in {**meta, **sample.meta}.items()}
    try:
        dumps(merged).encode()
    except ValueError as error:  # lone surrogates, or an integer too long to be written
        raise Broken(BROKEN_TEXT, f"in what belongs to the sample: {_reason(error)}") from None
    return replace(sample, meta=merged)


def not_utf8(error: UnicodeEncodeError) -> Broken:
    """Return why text of a sample can't be written as UTF-8."""
    return Broken(BROKEN_TEXT, _reason(error))


def shown(text: str) -> str:
    """Return text that came from a file so that it can be printed and written: short, valid."""
    if len(text) > _MAX_SHOWN:
        text = f"{text[: _MAX_SHOWN - 1]}…"
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _plain(value: Any, depth: int) -> Any:
    """Return `value` in the types that JSON has."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= _MAX_DEPTH:
        raise Broken(BROKEN_RECORD, f"a field nests deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    return str(value)  # dates, decimals


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[error.start]!r} is half of a surrogate pair, not a character"
    return str(error).partition(";")[0]
