"""Records from the files in which corpora are published: JSON lines, JSON arrays and parquet."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from vila_core.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zip", ".json", ".parquet")
_NUMBERED = re.compile(r"(?:^|shard[_-]|part[_-])(\d+)(?=[^\d]|$)")
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._-]+")


class Broken(Exception):
    """A record that can't become a sample; `reason` is counted, `detail` is shown."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


class Filtered(Exception):
    """A sound record that a rule leaves out; `reason` is the rule, `detail` the value it met."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Record:
    """One record of a file, or why it can't be read. `number` counts from 0 in its file."""

    number: int
    where: str  # "docs.jsonl:18", "part-00000.parquet row 17", "chat.json item 17"
    value: Any
    broken: Broken | None = None


class RecordFile(Protocol):
    """A file of a corpus, or what stands for one. `shard` is its part of the sample keys."""

    @property
    def shard(self) -> str:
        """The middle part of the sample keys."""
        ...

    def records(self) -> Iterator[Record]:
        """Yield the records; their values are small, or say where the rest lies."""
        ...


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus. `shard` is its part of the sample keys, from its name alone."""

    path: Path
    name: str
    shard: str

    def records(self) -> Iterator[Record]:
        """Yield the file's records. Raises UserError when the file as a whole is unreadable."""
        try:
            if self.path.suffix == ".parquet":
                yield from _parquet(self)
            elif self.path.suffix == ".json":
                yield from _array(self)
            else:
                yield from _lines(self)
        except OSError as error:
            raise UserError(f"{self.path}: can't be read: {error.strerror or error}") from None
        except (EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path}: the compressed file is damaged: {error}") from None


def corpus_files(path: Path) -> list[CorpusFile]:
    """Return the files of a corpus, by name: `path` itself, or those below it when it is a folder.

    Raises UserError when there are none, or when two would give their samples the same keys.
    """
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise UserError(f"{path}: is not one of {', '.join(SUFFIXES)}")
        return [CorpusFile(path, path.name, shard_name(path.name))]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    names = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.name.endswith(SUFFIXES) and file.is_file()
    )
    if not names:
        raise UserError(f"{path}: holds no file of {', '.join(SUFFIXES)}")
    files: dict[str, CorpusFile] = {}
    for name in names:
        file = CorpusFile(path / name, name, shard_name(name))
        if file.shard in files:
            raise UserError(
                f"{path}: {files[file.shard].name} and {name} would both be shard '{file.shard}' "
                "of the sample keys; rename one of them, or prepare them as two corpora"
            )
        files[file.shard] = file
    return list(files.values())


def shard_name(name: str) -> str:
    """Return the middle part of the sample keys of a file, from its name in the corpus folder.

    The published names carry a number: `docs_no_face_shard_17_v2.jsonl.zip` and
    `part-00017-…parquet` are both `00017`. Other files keep their name: `chat.json` is `chat`.
    """
    folder, _, last = name.rpartition("/")
    stem = next(last.removesuffix(suffix) for suffix in SUFFIXES if last.endswith(suffix))
    match = _NUMBERED.search(stem)
    if match:
        stem = f"{int(match.group(1)):05d}"
    path = [*folder.split("/"), stem] if folder else [stem]
    return "/".join(_NOT_IN_KEYS.sub("-", part).strip(".") or "-" for part in path)


def _lines(file: CorpusFile) -> Iterator[Record]:
    with _opened(file.path) as lines:
        for number, line in enumerate(lines):
            where = f"{file.name}:{number + 1}"
            if not line.strip():
                continue
            try:
                yield Record(number, where, json.loads(line.decode("utf-8-sig").rstrip()))
            except (ValueError, RecursionError) as error:
                yield Record(number, where, None, Broken("broken JSON", _problem(error)))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | io.BufferedIOBase]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            yield file  # type: ignore[misc]
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".jsonl")]
            if len(members) != 1:
                raise UserError(f"{path}: holds {len(members)} .jsonl files, expected one")
            with archive.open(members[0]) as file:
                yield file  # type: ignore[misc]
    else:
        with path.open("rb") as file:
            yield file


def _array(file: CorpusFile) -> Iterator[Record]:
    """Parse item by item, so that a large array's values never lie in memory all at once."""
    try:
        text = file.path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.path}: is not UTF-8 text (byte {error.start})") from None
    decoder, blank = json.JSONDecoder(), re.compile(r"\s*")

    def skip(place: int) -> int:
        return blank.match(text, place).end()  # type: ignore[union-attr]

    place = skip(0)
    if text[place : place + 1] != "[":
        raise UserError(
            f"{file.path}: a JSON list of records is needed; for one per line, name it .jsonl"
        )
    place = skip(place + 1)
    number = 0
    while text[place : place + 1] != "]":
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            place = getattr(error, "pos", place)
            raise _broken_array(file, text, place, number, _problem(error)) from None
        yield Record(number, f"{file.name} item {number}", value)
        number += 1
        place = skip(place)
        if text[place : place + 1] == ",":
            place = skip(place + 1)
        elif text[place : place + 1] != "]":
            raise _broken_array(file, text, place, number, "',' or ']' expected")


def _broken_array(file: CorpusFile, text: str, place: int, number: int, why: str) -> UserError:
    line = text.count("\n", 0, place) + 1
    column = place - text.rfind("\n", 0, place)
    return UserError(
        f"{file.path}:{line}:{column}: broken JSON in item {number}: {why}. What follows can't be "
        "read; repair the file, or convert it to JSON lines, where a broken line is set aside."
    )


def _parquet(file: CorpusFile) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    yield Record(number, f"{file.name} row {number}", value)
                    number += 1
    except pa.ArrowInvalid as error:
        raise UserError(f"{file.path}: is not a readable parquet file: {error}") from None


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text at byte {error.start}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
