"""Scripts of text: the first word of its letters' names in Unicode, as LATIN, CYRILLIC or CJK."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

_FIRST_PLANE = 0x10000


def script_shares(text: str) -> dict[str, float]:
    """Return the share of each script among the letters of `text`; nothing for one without.

    Digits, marks and signs have no part in it. Japanese is HIRAGANA, KATAKANA and CJK.
    """
    letters = Counter(char for char in text if char.isalpha())
    counts: Counter[str] = Counter()
    for char, count in letters.items():
        counts[_script(char)] += count
    return {script: count / letters.total() for script, count in counts.items()}


@lru_cache(maxsize=1)
def scripts() -> frozenset[str]:
    """Return the scripts of the letters in Unicode's first plane, where all living ones are."""
    letters = (chr(code) for code in range(_FIRST_PLANE))
    return frozenset(_script(char) for char in letters if char.isalpha())


@lru_cache(maxsize=4096)
def _script(char: str) -> str:
    return unicodedata.name(char, "UNNAMED").partition(" ")[0]
