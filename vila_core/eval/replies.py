"""Replies of a judge, kept in a file as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from vila_core.eval.kept_lines import KeptLines
from vila_core.jsonio import dumps


class Replies(MutableMapping[str, str]):
    """A mapping with a line of JSON per entry in a file; each is there once it has been set.

    A line that a killed process left half-written is cut off, a damaged one skipped: its judgement
    is asked for again. One process writes at a time.

    Use it as a context manager. Raises UserError for a file that can't be used.
    """

    def __init__(self, path: Path) -> None:
        self._known: dict[str, str] = {}
        self._file = KeptLines(path, self._learn, "replies")

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
        self._file.add(dumps({"key": key, "reply": reply}) + "\n")

    def __getitem__(self, key: str) -> str:
        return self._known[key]

    def __delitem__(self, key: str) -> None:
        raise TypeError("replies are kept, not deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
