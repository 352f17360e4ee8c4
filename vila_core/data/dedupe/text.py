"""Texts as 64-bit hashes: one of the whole, and one of every n words in a row."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

import numpy as np

# Scripts without blanks between words: kana, Han, Thai, Lao, Myanmar, Khmer. A character is a word.
_NO_BLANKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_BLANKS}]|[^\W_{_NO_BLANKS}]+")
_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing mod 2^64


def hash_bytes(data: bytes) -> int:
    """Return 64 bits of the BLAKE2b of `data`: the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def normalised(text: str) -> str:
    """Return a text in one spelling: Unicode's NFKC, no capitals, one blank for any run of them."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """Return the words of a text as `normalised`, without punctuation."""
    return _WORD.findall(normalised(text))


def grams(text: str, size: int) -> np.ndarray:
    """Return a hash of every `size` words in a row, in order, (G,) uint64.

    None for a shorter text.
    """
    found = words(text)
    count = len(found) - size + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    single = np.fromiter(map(_word_hash, found), dtype=np.uint64, count=len(found))
    # Horner's rule over all places at once; the hashes of words are random already.
    whole = np.full(count, size, dtype=np.uint64)
    for place in range(size):
        whole = whole * _STEP + single[place : place + count]
    return whole ^ (whole >> np.uint64(29))


@lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
    return hash_bytes(word.encode("utf-8", "surrogatepass"))
