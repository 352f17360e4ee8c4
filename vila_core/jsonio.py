"""Canonical JSON: one text per value, so that digests and artifacts are stable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vila_core.errors import UserError


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON with sorted keys, no NaN, and UTF-8 left as it is.

    Raises ValueError for NaN and infinities, which JSON can't hold.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        value,
        sort_keys=True,
        separators=separators,
        indent=indent,
        ensure_ascii=False,
        allow_nan=False,
    )


def digest(value: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(dumps(value).encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the user's. Raises UserError when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed, found {type(value).__name__}")
    return value
