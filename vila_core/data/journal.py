"""How far a corpus is prepared, kept after each shard, so that a killed prepare goes on from there.

A part is a JSON file with the totals so far and an index of the shard's rows; it counts once its
JSON is there. The rows that were set aside are one growing file, cut back to what a part knows of.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vila_core.data.index import Index
from vila_core.data.sample import SetAside
from vila_core.data.shards import ShardPart
from vila_core.errors import Damaged
from vila_core.jsonio import dumps

_ROWS, _DONE = "set_aside.jsonl", "done.json"


@dataclass(frozen=True)
class Position:
    """Where a corpus goes on: chunk, record in it, sample of that; what is before them is done."""

    chunk: int = 0
    record: int = 0
    sample: int = 0


class Journal:
    """The parts of one corpus in `folder`. Reading them back continues what they tell of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.parts: list[ShardPart] = []
        self.position = Position()
        self.state: dict[str, Any] = {}
        size = 0
        while (path := self._path(len(self.parts), "json")).exists():
            try:
                value = json.loads(path.read_bytes())
                rows = Index.load(self._path(len(self.parts), "npz"))
            except (ValueError, KeyError):
                raise Damaged(f"{path}: is not a part of a journal; remove {folder}") from None
            self.parts.append(ShardPart(value["shards"], rows))
            self.position = Position(**value["position"])
            self.state, size = value["state"], value["set_aside_bytes"]
        self._rows: BinaryIO = (folder / _ROWS).open("ab")
        self._rows.truncate(size)

    def set_aside(self, row: SetAside) -> None:
        """Append a row that was set aside."""
        self._rows.write(f"{dumps(_row(row))}\n".encode())

    def add(self, part: ShardPart, position: Position, state: dict[str, Any]) -> None:
        """Keep a closed shard, the position behind it and the totals up to there."""
        self._sync_rows()
        buffer = io.BytesIO()
        part.rows.write(buffer)
        self._write("npz", buffer.getvalue())
        value = {
            "shards": part.shards,
            "position": vars(position),
            "state": state,
            "set_aside_bytes": self._rows.tell(),
        }
        self._write("json", dumps(value).encode())
        self.parts.append(part)

    def finish(self, state: dict[str, Any]) -> None:
        """Keep the totals of the whole corpus: it is done."""
        self._sync_rows()
        self._rows.close()
        _write(self._folder / _DONE, dumps(state).encode())

    def close(self) -> None:
        """Close the file of rows."""
        self._rows.close()

    def _sync_rows(self) -> None:
        self._rows.flush()
        os.fsync(self._rows.fileno())

    def _path(self, number: int, suffix: str) -> Path:
        return self._folder / f"part-{number:05d}.{suffix}"

    def _write(self, suffix: str, data: bytes) -> None:
        _write(self._path(len(self.parts), suffix), data)


def done(folder: Path) -> dict[str, Any] | None:
    """Return the totals of a corpus that is done, or None."""
    try:
        return json.loads((folder / _DONE).read_bytes())
    except FileNotFoundError:
        return None


def set_aside_file(folder: Path) -> Path:
    """Return the file with the rows that were set aside, one JSON object per line."""
    return folder / _ROWS


def _row(row: SetAside) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if value is not None}


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f"{path.name}.new")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
