"""Replies of a judge, kept in a file as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from vila_core.errors import UserError
from vila_core.jsonio import dumps


class Replies(MutableMapping[str, str]):
    """A mapping with a line of JSON per entry in a file; each is there once it has been set.

    A line that a killed process left half-written is cut off, a damaged one skipped: its judgement
    is asked for again. One process writes at a time.

    Use it as a context manager. Raises UserError for a file that can't be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._file.seek(0)
            whole = 0
            for line in self._file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self._learn(line)
            self._file.truncate(whole)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise UserError(f"{path}: can't be used to keep replies: {error.strerror}") from None

    def _learn(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key, reply = row["key"], row["reply"]
        except (ValueError, TypeError, KeyError):
            return
        if isinstance(key, str) and isinstance(reply, str):
            self._known[key] = reply

    def __enter__(self) -> Replies:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __setitem__(self, key: str, reply: str) -> None:
        self._known[key] = reply
        try:
            self._file.write(dumps({"key": key, "reply": reply}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path}: can't be written: {error.strerror}") from None

    def __getitem__(self, key: str) -> str:
        return self._known[key]

    def __delitem__(self, key: str) -> None:
        raise TypeError("replies are kept, not deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
