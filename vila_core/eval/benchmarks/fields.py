"""Checked access to the records of official annotation files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Options

_AGAIN = "is this the official file, and of this version? download it again"


def text(record: dict[str, Any], key: str, where: str) -> str:
    """Return a field that must be text. Raises UserError."""
    value = _value(record, key, where)
    if not isinstance(value, str):
        raise _wrong(key, "a text", value, where)
    return value


def name(record: dict[str, Any], key: str, where: str) -> str:
    """Return an id, which files give as a number or as text, as text. Raises UserError."""
    value = _value(record, key, where)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise _wrong(key, "an id", value, where)
    return str(value)


def number(record: dict[str, Any], key: str, where: str) -> int:
    """Return a whole number. Raises UserError."""
    value = _value(record, key, where)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(key, "a whole number", value, where)
    return value


def texts(record: dict[str, Any], key: str, where: str) -> list[str]:
    """Return a list of texts. Raises UserError."""
    values = _value(record, key, where)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _wrong(key, "a list of texts", values, where)
    return values


def objects(record: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """Return a list of objects. Raises UserError."""
    values = _value(record, key, where)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise _wrong(key, "a list of objects", values, where)
    return values


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a value that must be an object. Raises UserError."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: an object is needed, found {type(value).__name__}; {_AGAIN}")
    return value


def split_of(options: Options, benchmark: str, splits: Sequence[str]) -> str:
    """Return the split that is asked for. Raises UserError for one the benchmark hasn't."""
    if options.split not in splits:
        raise UserError(
            f"{benchmark} has no split '{options.split}'; its splits: {', '.join(splits)}"
        )
    return options.split


def slug(text: str) -> str:
    """Return a name of a category as it stands in metric keys: "yes/no" becomes "yes_no"."""
    return re.sub(r"[^a-z0-9+-]+", "_", text.lower()).strip("_") or "other"


def _value(record: dict[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise UserError(f"{where}: '{key}' is missing; {_AGAIN}")
    return record[key]


def _wrong(key: str, needed: str, value: Any, where: str) -> UserError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return UserError(f"{where}: '{key}' must be {needed}, found {shown}; {_AGAIN}")
