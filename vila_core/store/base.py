"""What every store can do, and which keys it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

RESERVED = ".vila-"
"""Names that start so are the store's own (files being written, locks) and never keys."""

CHUNK = 2**20
"""Bytes that are read at a time where a value is too large to hold."""


class Store(ABC):
    """Bytes by key. A key is a relative path with `/`: "runs/r1/run.json".

    A write is seen whole or not at all, also after a crash. Where several processes may write the
    same key, `create_only` and `swap` decide who wins. All methods raise StoreError (NotFound,
    AlreadyExists, Conflict where it says so) and ValueError for an unusable key.
    """

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return the value. Raises NotFound."""

    @abstractmethod
    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the value piece by piece, asking once. Raises NotFound.

        A store that does not answer, or whose answer breaks off, is Unreachable.
        """

    @abstractmethod
    def write(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """Write atomically. With `create_only` an existing key raises AlreadyExists."""

    @abstractmethod
    def swap(self, key: str, data: bytes, *, expected: str | None) -> str:
        """Write if the etag is still `expected` (None: no such key yet); return the new etag.

        Take the etag before reading the value that the new one is made from. A key that is swapped
        must be changed by `swap` alone. Raises Conflict.
        """

    @abstractmethod
    def etag(self, key: str) -> str | None:
        """Return a tag that changes with the content, or None when there is no such key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the key; no error when it is gone already."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, sorted."""

    def etags(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield the keys that start with `prefix`, sorted, with their etags."""
        for key in self.list(prefix):
            tag = self.etag(key)
            if tag is not None:  # else it was removed since
                yield key, tag

    @abstractmethod
    def children(self, folder: str) -> list[str]:
        """Return the sorted names directly below `folder`, keys and folders alike."""

    @abstractmethod
    def upload(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Write a file's content, atomically, without holding it in memory.

        Raises Damaged, and writes nothing, where the content is not that of `sha256`.
        """

    @abstractmethod
    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Write the value into the file `path`, atomically.

        Raises NotFound, and Damaged, without a file, where the content is not that of `sha256`.
        """

    def abort_uploads(self, prefix: str = "", *, older: timedelta = timedelta()) -> int:
        """End the uploads below `prefix` that dead processes have left; return how many.

        Only those that began `older` ago: one of a living process can't be told from them.
        """
        return 0

    def exists(self, key: str) -> bool:
        """Return whether there is such a key."""
        return self.etag(key) is not None

    def local_path(self, key: str) -> Path | None:
        """Return where the key (or "folder") lies on this machine, None for a remote store."""
        return None


def check_key(key: str) -> str:
    """Return `key` if it is usable in every store, else raise ValueError."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(RESERVED) for part in parts) or "\0" in key:
        raise ValueError(
            f"'{key}' is not a store key: use a relative path such as runs/r1/run.json"
        )
    return key
