"""The language of text, by py3langid's statistics of byte sequences: 97 languages, no download."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from vila_core.errors import UserError, require

_ENOUGH = 2000
"""So many characters tell a language; more would only cost time."""


def language_of(text: str) -> str:
    """Return the likeliest language of `text`, for example "en" (ISO 639-1). Raises UserError.

    A guess: of a few words, names above all, it is often wrong.
    """
    return _package().classify(text[:_ENOUGH])[0]


def check_languages(languages: Iterable[str]) -> None:
    """Raise UserError for a language that isn't known, or when py3langid is missing."""
    known = sorted(language for language, _ in _package().rank(""))
    for language in languages:
        if language not in known:
            raise UserError(f"rules.languages: '{language}' is not one of {', '.join(known)}")


@lru_cache(maxsize=1)
def _package() -> Any:
    require("py3langid", extra="languages", why="tell the language of text (rules.languages)")
    return importlib.import_module("py3langid")
