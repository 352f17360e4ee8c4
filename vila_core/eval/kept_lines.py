"""A file to which whole lines are added as they come: what journals and replies are kept in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vila_core.errors import UserError


class KeptLines:
    """Reads every whole line at the start, then only adds. One process writes at a time.

    A line that a killed process left half-written is cut off. `what` names the content in messages.
    Raises UserError for a file that can't be read or written.
    """

    def __init__(self, path: Path, learn: Callable[[bytes], None], what: str) -> None:
        self.path, self._what = path, what
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._file.seek(0)
            whole = 0
            for line in self._file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                learn(line)
            self._file.truncate(whole)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise UserError(f"{path}: can't be used to keep {what}: {error.strerror}") from None

    def add(self, text: str) -> None:
        """Add whole lines, flushed: after this they outlive the process."""
        try:
            self._file.write(text.encode())
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: {self._what} can't be kept: {error.strerror}; the earlier ones are "
                "there"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
