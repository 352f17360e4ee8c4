"""Where prepared corpora lie: a folder of this machine, or a place in a store."""

from __future__ import annotations

import contextlib
import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path

from vila_core.data.cache import RemoteFile
from vila_core.errors import NotFound
from vila_core.store import open_store

MANIFEST = "manifest.json"
"""The file that names a corpus's shards and their sha256; a folder without it is no corpus."""


class Location(ABC):
    """A folder, wherever it is. Names below it are relative paths with `/`."""

    uri: str

    @abstractmethod
    def names(self) -> list[str]:
        """Return the sorted names directly below; none where there is nothing."""

    @abstractmethod
    def below(self, name: str) -> Location:
        """Return the folder `name` in this one, which may not exist."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a small file. Raises NotFound or FileNotFoundError."""

    @abstractmethod
    def file(self, name: str, sha256: str, size: int | None) -> Path | RemoteFile:
        """Return a large file: its path, or what the shard cache needs to fetch and check it."""


class Folder(Location):
    """A folder that is read in place."""

    def __init__(self, path: Path) -> None:
        self.path, self.uri = path, str(path)

    def names(self) -> list[str]:
        """Return the sorted names directly below; none where there is nothing."""
        try:
            return sorted(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def below(self, name: str) -> Folder:
        """Return the folder `name` in this one."""
        return Folder(self.path / name)

    def read(self, name: str) -> bytes:
        """Return a file's content. Raises FileNotFoundError."""
        return (self.path / name).read_bytes()

    def file(self, name: str, sha256: str, size: int | None) -> Path:
        """Return the path of a file."""
        return self.path / name


class InStore(Location):
    """A "folder" of a store, through the shard cache."""

    def __init__(self, store: str, lead: str = "") -> None:
        """Point below the store's URI; `lead` is empty or ends with a slash."""
        self._uri, self._lead = store.rstrip("/"), lead
        self.uri = f"{self._uri}/{lead}".rstrip("/")

    def names(self) -> list[str]:
        """Return the sorted names directly below; none where there is nothing."""
        return open_store(self._uri).children(self._lead.rstrip("/"))

    def below(self, name: str) -> InStore:
        """Return the folder `name` in this one."""
        return InStore(self._uri, f"{self._lead}{name}/")

    def read(self, name: str) -> bytes:
        """Return a value. Raises NotFound."""
        return open_store(self._uri).read(self._lead + name)

    def file(self, name: str, sha256: str, size: int | None) -> RemoteFile:
        """Return what the shard cache needs."""
        return RemoteFile(self._uri, self._lead + name, sha256, size)


def locate(location: str | Path | Location) -> Location:
    """Return the location: `s3://…` and `file://…` through the shard cache, a path in place.

    `dvc:PATH@REV`, `dvc+s3://…#<md5>.dir` and `artifact+s3://…/artifacts/<sha256>` name content,
    and go through the cache too. Raises UserError for another scheme.
    """
    if isinstance(location, Location):
        return location
    if isinstance(location, str) and location.startswith(("dvc:", "dvc+", "artifact+")):
        from vila_core.data.by_content import at_address
        from vila_core.data.versions import SCHEME, resolve

        return at_address(resolve(location).address if location.startswith(SCHEME) else location)
    if isinstance(location, Path) or "://" not in location:
        return Folder(Path(location).expanduser())
    open_store(location)  # tells of a wrong scheme, or of credentials that are missing
    return InStore(location)


def corpora_at(location: str | Path | Location) -> Location:
    """Return the folder whose folders are corpora: the location, or `corpora` below it."""
    where = locate(location)
    return where.below("corpora") if "corpora" in where.names() else where


def manifest_digests(location: str | Path | Location) -> dict[str, str]:
    """Return the sha256 of each corpus's manifest, by name. Raises StoreError."""
    where, found = corpora_at(location), {}
    for name in where.names():
        with contextlib.suppress(NotFound, FileNotFoundError, NotADirectoryError):
            found[name] = hashlib.sha256(where.below(name).read(MANIFEST)).hexdigest()
    return found
