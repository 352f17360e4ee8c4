"""Records from WebDataset tars: headers are walked, contents stay where they are.

Files next to each other whose names are equal up to the first dot (of the last part of the path)
are one record, as in webdataset. Nothing is ever written under a name that a tar gives.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from vila_core.data.readers.members import Group, Member
from vila_core.data.readers.records import Broken, Record
from vila_core.errors import UserError

DAMAGED = "damaged archive"
_BLOCK = 512
_MAX_MEMBERS = 1000  # of one record; more are no sample, and would have to fit in memory


@dataclass(frozen=True)
class TarFile:
    """A tar of a corpus, as `CorpusFile` is a file of lines."""

    path: Path
    name: str
    shard: str

    def records(self) -> Iterator[Record]:
        """Yield the tar's records. Raises UserError when it is damaged."""
        try:
            yield from _records(self)
        except OSError as error:
            raise UserError(f"{self.path}: can't be read: {error.strerror or error}") from None


def refuse_cut_off(paths: Iterable[Path]) -> None:
    """Raise UserError for the first tar that doesn't end like one. It reads the ends alone."""
    for path in paths:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(size - 2 * _BLOCK, 0))
                end = file.read()
        except OSError as error:
            raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
        if size % _BLOCK or len(end) < 2 * _BLOCK or end.strip(b"\0"):
            raise UserError(
                f"{path}: is cut off, or no tar: it lacks the end mark after {size:,} bytes.\n"
                "  fix: fetch or write it again, or take it out of the folder"
            )


def _records(file: TarFile) -> Iterator[Record]:
    found = _Found(file)
    for info in _headers(file.path):
        yield from found.add(info)
    yield from found.close()


class _Found:
    """Collects members until the next record begins."""

    def __init__(self, file: TarFile) -> None:
        self._file, self._path = file, str(file.path)
        self._number = 0
        self._clear("")

    def _clear(self, name: str) -> None:
        self._name = name
        self._members: dict[str, Member] = {}
        self._broken: Broken | None = None

    def add(self, info: tarfile.TarInfo) -> Iterator[Record]:
        """Take a member; yield the record that was complete before it."""
        if info.isdir():
            return
        folder, slash, last = info.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        name = f"{folder}{slash}{stem}"
        if name != self._name:
            yield from self.close()
            self._clear(name)
        why = _refused(info, stem, suffix)
        if suffix in self._members:
            why = "two members of this name"
        elif len(self._members) == _MAX_MEMBERS:
            why = f"the record has more than {_MAX_MEMBERS} members"
        else:
            self._members[suffix] = Member(suffix, self._path, info.offset_data, info.size)
        if why and self._broken is None:
            self._broken = Broken(DAMAGED, f"{info.name}: {why}")

    def close(self) -> Iterator[Record]:
        """Yield the record that is complete."""
        if not self._members:
            return
        where = f"{self._file.name}:{self._name}"
        group = Group(self._name, tuple(self._members.values()))
        value = None if self._broken else group
        yield Record(self._number, where, value, self._broken)
        self._number += 1


def _refused(info: tarfile.TarInfo, stem: str, suffix: str) -> str:
    if info.issym() or info.islnk():
        return f"is a link to {info.linkname}"
    if not info.isreg():
        return "is no file"
    if info.issparse():
        return "is a sparse file"
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "leads out of the archive"
    if "\0" in info.name or not stem or not suffix:
        return "no name of a sample's file"
    return ""


def _headers(path: Path) -> Iterator[tarfile.TarInfo]:
    size = path.stat().st_size
    with path.open("rb") as file:
        tar = _first(_Bounded(file, size), path)
        last = -1
        while (info := _next(tar, path)) is not None:
            tar.members = []  # pyright: ignore  # it would keep all of them
            end = info.offset_data + info.size
            if not last < tar.offset or info.size < 0 or end > size:
                raise _damaged(path, f"{info.name} of {info.size:,} bytes reaches beyond its end")
            last = tar.offset
            yield info
        _refuse_rest(file, tar.offset, path)


class _Bounded:
    """A file of which no more can be asked for than is there: a header can claim exabytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(max(min(size, self._size - self._file.tell()), 0))


def _first(file: _Bounded, path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=cast(BinaryIO, file), mode="r:")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: is no tar: {error}") from None


def _next(tar: tarfile.TarFile, path: Path) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _damaged(path, str(error)) from None


def _refuse_rest(file: BinaryIO, offset: int, path: Path) -> None:
    """Raise UserError unless only zeros follow: tarfile takes any broken header for the end."""
    file.seek(offset)
    start = file.read(_BLOCK)
    if len(start) < _BLOCK or start.strip(b"\0"):
        raise _damaged(path, f"no header and no end mark at byte {offset:,}")
    while block := file.read(2**20):
        if block.strip(b"\0"):
            raise _damaged(path, "it goes on after its end mark; split joined tars")


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: the tar is damaged: {why}.\n"
        "  fix: fetch or write it again, or take it out of the folder"
    )
