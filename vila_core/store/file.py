"""A directory as a store: write aside, fsync, rename; link for create-only, flock for swap."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vila_core.errors import AlreadyExists, Conflict, Damaged, NotFound, StoreError
from vila_core.store.base import CHUNK, RESERVED, Store, check_key

_FIXES = {
    errno.ENOSPC: "no space left on the device; free some space or choose another store (--store)",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another store (--store)",
    errno.EFBIG: "the file is larger than the file system or a ulimit (-f) allows",
    errno.EACCES: "permission denied; make the store writable or choose another one (--store)",
    errno.EPERM: "not permitted; make the store writable or choose another one (--store)",
    errno.EROFS: "the file system is read-only; choose another store (--store)",
    errno.ENOTDIR: "a part of this path is a file, not a directory; choose another store (--store)",
    errno.EISDIR: "this is a directory, not a value",
    errno.ENAMETOOLONG: "the name is too long for this file system",
}


class FileStore(Store):
    """A store in a directory. Needs a file system with atomic rename, hard links and flock."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))
        self.uri = self.root.as_uri()

    def read(self, key: str) -> bytes:
        """Return the value. Raises NotFound."""
        path = self._path(key)
        with self.explained(key, "read"):
            return path.read_bytes()

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the value piece by piece. Raises NotFound."""
        path = self._path(key)
        with self.explained(key, "read"), path.open("rb") as value:
            while chunk := value.read(CHUNK):
                yield chunk

    def write(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """Write atomically. With `create_only` an existing key raises AlreadyExists."""
        path = self._path(key)
        with self.explained(key, "written"), _aside(path, lambda file: file.write(data)) as aside:
            if create_only:
                try:
                    os.link(aside, path)  # unlike rename, never replaces
                except FileExistsError:
                    raise AlreadyExists(f"{self.uri}/{key}: exists already.") from None
            else:
                aside.replace(path)

    def swap(self, key: str, data: bytes, *, expected: str | None) -> str:
        """Write if the etag is still `expected` (None: no such key yet); return the new etag."""
        path = self._path(key)
        with self.explained(key, "written"), _locked(path.parent):
            found = self.etag(key)
            if found != expected:
                raise Conflict(f"{self.uri}/{key}: was changed by somebody else; read it again.")
            self.write(key, data)
        return _tag(data)

    def etag(self, key: str) -> str | None:
        """Return the sha256 of the content, or None when there is no such key."""
        try:
            return _tag(self.read(key))
        except NotFound:
            return None

    def exists(self, key: str) -> bool:
        """Return whether there is such a key."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """Remove the key; no error when it is gone already."""
        path = self._path(key)
        with self.explained(key, "removed"), contextlib.suppress(FileNotFoundError):
            path.unlink()

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, sorted."""
        folder = prefix.rpartition("/")[0]
        top = self._path(folder) if folder else self.root
        found = []
        for base, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(RESERVED)]
            relative = Path(base).relative_to(self.root).as_posix()
            lead = "" if relative == "." else f"{relative}/"
            found += [lead + name for name in files if not name.startswith(RESERVED)]
        yield from sorted(key for key in found if key.startswith(prefix))

    def children(self, folder: str) -> list[str]:
        """Return the sorted names directly below `folder`, keys and folders alike."""
        path = self._path(folder) if folder else self.root
        try:
            names = os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith(RESERVED))

    def upload(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Copy a file's content, atomically. Raises Damaged where it isn't that of `sha256`."""
        target = self._path(key)
        with (
            path.open("rb") as source,
            self.explained(key, "written"),
            _aside(target, lambda file: _copy(source, file, str(path), sha256)) as aside,
        ):
            aside.replace(target)

    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Copy the value into the file `path`, atomically. Raises NotFound, Damaged."""
        source = self._path(key)
        with (
            self.explained(key, "read"),
            source.open("rb") as value,
            _aside(path, lambda file: _copy(value, file, f"{self.uri}/{key}", sha256)) as aside,
        ):
            aside.replace(path)

    def local_path(self, key: str) -> Path:
        """Return where the key (or "folder") lies; "" is the root."""
        return self._path(key) if key else self.root

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextlib.contextmanager
    def explained(self, key: str, verb: str) -> Iterator[None]:
        """Turn an OSError into a StoreError that names the key, the place and the fix."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOENT and verb == "read":
                raise NotFound(f"{self.uri}/{key}: there is no such key.") from None
            reason = _FIXES.get(error.errno or 0, error.strerror or str(error))
            raise StoreError(f"{self.root / key}: can't be {verb}: {reason}.") from error


def _copy(source: BinaryIO, target: BinaryIO, name: str, sha256: str | None) -> None:
    if sha256 is None:
        shutil.copyfileobj(source, target)
        return
    found = hashlib.sha256()
    while chunk := source.read(CHUNK):
        found.update(chunk)
        target.write(chunk)
    if found.hexdigest() != sha256:
        raise Damaged(f"{name}: does not match its digest.")


@contextlib.contextmanager
def _aside(path: Path, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
    """Yield a complete, synced file beside `path`; the caller renames or links it. Then sync."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f"{RESERVED}{uuid.uuid4().hex}"
    try:
        with aside.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield aside
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{RESERVED}lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by closing, or by the kernel after a crash
        yield


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
