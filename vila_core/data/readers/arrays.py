"""Records from a JSON array, item by item: the file never lies in memory as a whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vila_core.data.readers.lines import problem, refuse_other_encodings
from vila_core.data.readers.records import MAX_RECORD_BYTES, Record
from vila_core.errors import UserError

_BLOCK = 2**20
_BLANK = re.compile(r"[ \t\n\r]*")
_NEAR_THE_END = 16  # characters: a token that is cut off there is whole once more was read


def array_items(path: Path, name: str) -> Iterator[Record]:
    """Yield a record per item. Raises UserError for a file that isn't an array, or is broken."""
    with path.open("rb") as file:
        refuse_other_encodings(file.read(4), path)
        file.seek(0)
        window = _Window(file, path)
        window.skip()
        if window.next() != "[":
            raise UserError(
                f"{path}: a JSON list of records is needed; for one per line, name it .jsonl"
            )
        window.place += 1
        window.skip()
        number = 0
        while window.next() != "]":
            yield Record(number, f"{name} item {number}", window.item(number))
            number += 1
            window.skip()
            if window.next() == ",":
                window.place += 1
                window.skip()
            elif window.next() != "]":
                raise window.broken(number, "',' or ']' expected", window.place)
        window.place += 1
        window.skip()
        if window.next():
            raise window.broken(number, "text after the end of the list", window.place)


class _Window:
    """The part of a file that is being parsed: `text` from `place` on is still to be read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._decoder = json.JSONDecoder()
        self._line, self._column = 1, 1  # of text[0]
        self._read = 0
        self._ended = False
        self.text, self.place = "", 0

    def next(self) -> str:
        """Return the character at `place`, "" at the end of the file."""
        return self.text[self.place : self.place + 1]

    def skip(self) -> None:
        """Move `place` over blanks."""
        while True:
            self.place = _BLANK.match(self.text, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.text) or not self._more():
                return

    def item(self, number: int) -> Any:
        """Return the value at `place` and move behind it. Raises UserError when it is broken."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - _NEAR_THE_END
                cut = cut or error.msg.startswith("Unterminated string")
                if not (cut and self._more()):
                    place = error.pos if not cut else min(error.pos, len(self.text))
                    raise self.broken(number, error.msg, place) from None
            except (ValueError, RecursionError) as error:
                raise self.broken(number, problem(error), self.place) from None
            else:
                # A number that ends with the text may go on behind it.
                if end < len(self.text) or not self._more():
                    self.place = end
                    return value
            if len(self.text) > MAX_RECORD_BYTES:
                why = f"an item of more than {MAX_RECORD_BYTES:,} characters"
                raise self.broken(number, why, self.place)

    def broken(self, number: int, why: str, place: int) -> UserError:
        """Return the error for item `number`, broken at `place`."""
        line = self._line + self.text.count("\n", 0, place)
        last = self.text.rfind("\n", 0, place)
        column = place - last if last >= 0 else self._column + place
        return UserError(
            f"{self._path}:{line}:{column}: broken JSON in item {number}: {why}. What follows "
            "can't be read; repair the file, or convert it to JSON lines, where a broken line is "
            "set aside."
        )

    def _more(self) -> bool:
        """Drop what was read and read as much again as is left; False at the end of the file."""
        if self._ended:
            return False
        done = self.text[: self.place]
        self._line += done.count("\n")
        last = done.rfind("\n")
        self._column = len(done) - last if last >= 0 else self._column + len(done)
        self.text, self.place = self.text[self.place :], 0
        data = self._file.read(max(_BLOCK, len(self.text)))
        self._ended = not data
        try:
            self.text += self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            start = self._read + error.start
            raise UserError(f"{self._path}: is not UTF-8 text (byte {start})") from None
        self._read += len(data) - len(self._utf8.getstate()[0])
        return True
