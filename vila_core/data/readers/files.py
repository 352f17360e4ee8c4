"""The files of a corpus: JSON lines, JSON arrays and parquet, with the shard names of its keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vila_core.data.readers.arrays import array_items
from vila_core.data.readers.lines import UNREADABLE, json_lines
from vila_core.data.readers.names import SUFFIXES, shard_name
from vila_core.data.readers.records import Broken, Filtered, Record, RecordFile
from vila_core.data.readers.tables import table_rows
from vila_core.errors import UserError

__all__ = [
    "SUFFIXES",
    "Broken",
    "CorpusFile",
    "Filtered",
    "Record",
    "RecordFile",
    "corpus_files",
    "shard_name",
]


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
                yield from table_rows(self.path, self.name)
            elif self.path.suffix == ".json":
                yield from array_items(self.path, self.name)
            else:
                yield from json_lines(self.path, self.name)
        except OSError as error:
            raise UserError(f"{self.path}: can't be read: {error.strerror or error}") from None
        except UNREADABLE as error:
            raise UserError(f"{self.path}: the compressed file is damaged: {error}") from None


def corpus_files(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[CorpusFile]:
    """Return the files of a corpus, by name: `path` itself, or those below it when it is a folder.

    Hidden files and image folders are passed over. Raises UserError when there are none, or when
    two would give their samples the same keys.
    """
    if path.is_file():
        if not path.name.endswith(suffixes):
            raise UserError(f"{path}: is not one of {', '.join(suffixes)}")
        return [CorpusFile(path, path.name, shard_name(path.name, suffixes))]
    names = files_below(path, suffixes)
    if not names:
        raise UserError(f"{path}: holds no file of {', '.join(suffixes)}")
    return named_files(path, names, suffixes)


def files_below(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names in folder `path`, with subfolders, that end so, sorted.

    Hidden ones are passed over, and image folders (`images`, `…_images`): they may hold millions of
    files. Raises UserError when there is no such folder.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    names: list[str] = []
    for folder, below, files in walk(path):
        below[:] = [name for name in below if not _is_of_images(name)]
        names += [
            (folder / name).relative_to(path).as_posix()
            for name in files
            if name[0] != "." and name.endswith(suffixes) and (folder / name).is_file()
        ]
    return sorted(names)


def walk(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield folders below `path`, itself first, with their folders and files, as os.walk does.

    By name. Hidden folders are left out, and links to folders: one may lead anywhere.
    """
    for place, below, files in os.walk(path):
        below[:] = sorted(name for name in below if name[0] != ".")
        yield Path(place), below, files


def _is_of_images(folder: str) -> bool:
    return folder == "images" or folder.endswith("_images")


def named_files(path: Path, names: Iterable[str], suffixes: tuple[str, ...]) -> list[CorpusFile]:
    """Return files of folder `path` in the order of `names`.

    Raises UserError when two would give their samples the same keys.
    """
    files: dict[str, CorpusFile] = {}
    for name in names:
        file = CorpusFile(path / name, name, shard_name(name, suffixes))
        if file.shard in files:
            raise UserError(
                f"{path}: {files[file.shard].name} and {name} would both be shard '{file.shard}' "
                "of the sample keys; rename one of them, or prepare them as two corpora"
            )
        files[file.shard] = file
    return list(files.values())
