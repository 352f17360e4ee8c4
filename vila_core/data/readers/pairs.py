"""Folders of images, each with a text of the same name: a.jpg and a.txt, a.caption or a.json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from vila_core.data.readers.files import shard_name, walk
from vila_core.data.readers.folder import IMAGE_SUFFIXES
from vila_core.data.readers.groups import GroupOptions
from vila_core.data.readers.members import Group, Member
from vila_core.data.readers.records import Broken, Record
from vila_core.errors import UserError

TEXTS = ("txt", "caption", "text", "json")
ROOT = "files"
"""Shard of the keys of what lies in the corpus's folder itself."""


class PairOptions(GroupOptions):
    """Where the text of an image is."""

    text: tuple[str, ...] = Field(
        default=TEXTS,
        min_length=1,
        description="endings of files that may hold the text; the first one that is there does",
    )


@dataclass(frozen=True)
class Folder:
    """A folder of files; those of one name are a record. Hidden files are passed over."""

    path: Path
    name: str
    shard: str

    def records(self) -> Iterator[Record]:
        """Yield a record per name, by name. Raises UserError when the folder can't be read."""
        groups: dict[str, list[str]] = {}
        for stem, suffix in sorted(_files(self.path)):
            groups.setdefault(stem, []).append(suffix)
        for number, (stem, suffixes) in enumerate(groups.items()):
            where = f"{self.name}/{stem}" if self.name else stem
            members = tuple(Member(one, str(self.path / f"{stem}.{one}")) for one in suffixes)
            group = Group(stem, members)
            images = [member.suffix for member in members if member.is_image]
            broken = None
            if len(images) > 1:
                broken = Broken("several images", f"{stem} is there as {', '.join(images)}")
            yield Record(number, where, None if broken else group, broken)


def files(path: Path) -> Sequence[Folder]:
    """Return the folders with images or texts below `path`, itself included, by name.

    Raises UserError when there are none, or when two would give their samples the same keys.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; the format 'pairs' reads a folder of files")
    folders: dict[str, Folder] = {}
    for place, _, _ in walk(path):
        if next(_files(place), None) is None:
            continue
        name = place.relative_to(path).as_posix() if place != path else ""
        folder = Folder(place, name, shard_name(name or ROOT, ()))
        if folder.shard in folders:
            raise UserError(
                f"{path}: {folders[folder.shard].path} and {place} would both be shard "
                f"'{folder.shard}' of the sample keys; rename one of them"
            )
        folders[folder.shard] = folder
    if not folders:
        raise UserError(
            f"{path}: holds no image ({', '.join(IMAGE_SUFFIXES)}) and no text ({', '.join(TEXTS)})"
        )
    return sorted(folders.values(), key=lambda folder: folder.name)


def _files(path: Path) -> Iterator[tuple[str, str]]:
    """Yield stem and suffix of a folder's images and texts."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.rpartition(".")
                known = suffix.lower() in (*IMAGE_SUFFIXES, *TEXTS)
                # A pipe or a link to nothing counts: opening it will say what is wrong.
                if known and stem and not stem.startswith(".") and not _is_folder(entry):
                    yield stem, suffix
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
