"""Records from JSON lines, plain or in gzip or zip, with what a hostile file could do bounded."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from vila_core.data.readers.records import MAX_RECORD_BYTES, Broken, Record
from vila_core.errors import UserError

BROKEN_JSON = "broken JSON"
MAX_RATIO = 200
"""Bytes out of a byte of a compressed file. JSON lines of text have 3 to 20; a bomb has 1,000."""
UNJUDGED_BYTES = 64 * 2**20
"""Up to here a compressed file may unpack to anything."""
UNREADABLE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    UnicodeDecodeError,
    struct.error,
)
"""What the standard library raises for damaged compressed files, besides OSError."""
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Line:
    """A line of JSON, not parsed yet: that is done where the sample is made, in any process."""

    data: bytes

    def parsed(self) -> Any:
        """Return the value. Raises Broken when it isn't one."""
        try:
            return json.loads(self.data.decode("utf-8-sig").rstrip())
        except (ValueError, RecursionError) as error:
            raise Broken(BROKEN_JSON, problem(error)) from None


def json_lines(path: Path, name: str) -> Iterator[Record]:
    """Yield a record per line that isn't blank, its value a `Line`. Numbers count all lines.

    Raises UserError, OSError or one of UNREADABLE for the file as a whole.
    """
    with _opened(path) as stream:
        refuse_other_encodings(stream.peek(4)[:4], path)
        for number, line in enumerate(_lines(stream, path)):
            where = f"{name}:{number + 1}"
            if line is None:
                limit = f"a line of more than {MAX_RECORD_BYTES:,} bytes"
                yield Record(number, where, None, Broken("record too large", limit))
            elif line.strip():
                yield Record(number, where, Line(line))


def refuse_other_encodings(start: bytes, path: Path) -> None:
    """Raise UserError if a text file whose first four bytes are `start` isn't UTF-8 at all."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
        raise UserError(
            f"{path}: is UTF-16, UTF-32 or no text at all (starts {start.hex(' ')}); UTF-8 is "
            f"needed.\n  fix: iconv -f UTF-16 -t UTF-8 {path.name} > new.{path.name}"
        )


def problem(error: Exception) -> str:
    """Return what is wrong with a piece of JSON, in few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text at byte {error.start}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).partition(";")[0]


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            yield _buffered(file)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, _member(archive, path) as file:
            yield _buffered(file)
    else:
        with path.open("rb") as file:
            yield file


def _member(archive: zipfile.ZipFile, path: Path) -> IO[bytes]:
    members = [name for name in archive.namelist() if name.endswith(".jsonl")]
    if len(members) != 1:
        raise UserError(f"{path}: holds {len(members)} .jsonl files, expected one")
    try:
        return archive.open(members[0])
    except (RuntimeError, NotImplementedError) as error:  # a password, a method we lack
        raise UserError(f"{path}: can't be unpacked: {error}") from None


def _buffered(file: Any) -> io.BufferedReader:
    """Return `file` with reading by line in C; zipfile's own with a limit is a slow loop."""
    return io.BufferedReader(cast(io.RawIOBase, file), _BLOCK)


def _lines(stream: io.BufferedReader, path: Path) -> Iterator[bytes | None]:
    """Yield lines, None for one that is too long. Raises UserError for a zip or gzip bomb."""
    most = max(UNJUDGED_BYTES, MAX_RATIO * path.stat().st_size)
    packed = path.suffix in (".gz", ".zip")
    total = 0
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        total += len(line)
        long = len(line) > MAX_RECORD_BYTES
        while long and line and not line.endswith(b"\n"):
            line = stream.readline(_BLOCK)
            total += len(line)
            _refuse_bomb(packed and total > most, path)
        _refuse_bomb(packed and total > most, path)
        yield None if long else line


def _refuse_bomb(is_one: bool, path: Path) -> None:
    if is_one:
        raise UserError(
            f"{path}: unpacks to more than {MAX_RATIO} times its size, like a bomb made to fill "
            "memory or disk; text never does.\n  fix: if it is sound, unpack it yourself first."
        )
