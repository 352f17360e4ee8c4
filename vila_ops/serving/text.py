"""An answer's text while its tokens come: what is certain is given out, stop texts end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CUT = "\ufffd"
_MOST_OPEN = 8
"""A character of UTF-8 has at most four bytes; a longer run of half ones is no character."""


class AnswerText:
    """Turns tokens into text piece by piece; the pieces make up the text without outer blanks.

    A piece is held back while it could be half of a character, the start of a stop text, or the
    blanks at the answer's end. `stopped` tells that a stop text came; it is left out.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._special = frozenset(number for number, token in added.items() if token.special)
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._start = 0  # of the tokens that are decoded again: the next one's blank depends on it
        self._read = 0
        self._before = ""
        self._held = ""
        self._begun = False
        self.stopped = False

    def add(self, token: int) -> str:
        """Take the next token; return the text that is certain now."""
        if token in self._special:
            return ""
        self._ids.append(token)
        return self._give(self._decoded(last=False))

    def finish(self) -> str:
        """Return the rest of the text; no token comes any more."""
        piece = "" if self.stopped else self._give(self._decoded(last=True))
        rest, self._held = self._held.rstrip(), ""
        if self.stopped:
            return piece
        return piece + (rest if self._begun else rest.lstrip())

    def _decoded(self, *, last: bool) -> str:
        window = self._decode(self._ids[self._start :])
        is_open = len(self._ids) - self._read < _MOST_OPEN
        if window.endswith(_CUT) and is_open and not last:
            return ""
        piece = window[len(self._before) :]
        self._start, self._read = self._read, len(self._ids)
        self._before = self._decode(self._ids[self._start :])
        return piece

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _give(self, piece: str) -> str:
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            given = text[: min(found)].rstrip()
        else:
            cut = len(text) - self._open(text)
            given = text[:cut].rstrip()
            self._held = text[len(given) :]
        if not self._begun:
            given = given.lstrip()
        self._begun = self._begun or bool(given)
        return given

    def _open(self, text: str) -> int:
        """Return how many characters at the end may be the start of a stop text."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
