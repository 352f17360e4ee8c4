"""A bounded folder of remote shards on this machine, named by content; any process may use it.

Files come in whole: written aside, checked by sha256, renamed. A lock per digest lets one process
fetch while others wait for the result, and is given back by the kernel when that process dies.
What was used longest ago is unlinked to make room; who still reads it keeps the open descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vila_core.errors import Damaged, NotFound, StoreError, Unreachable, UserError
from vila_core.store import Store, open_store
from vila_core.store.artifacts import cache_folder

DEFAULT_SIZE = "64GiB"
_PART = ".part"
_UNITS = {"": 1, **{f"{unit}iB": 2 ** (10 * n) for n, unit in enumerate("KMGT", 1)}}


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store, and what its content must be. `size` is None where nobody wrote it down.

    `name` is what people call it, where the key is only a digest; `fix` helps when the object is
    not what it must be.
    """

    store: str
    key: str
    sha256: str
    size: int | None = None
    name: str | None = None
    fix: str = "bring the object back, or prepare the corpus again under another name."

    @property
    def uri(self) -> str:
        """The address, for messages."""
        return f"{self.store}/{self.key}" + (f" ({self.name})" if self.name else "")


class Stopped(Exception):
    """Fetching was given up because nobody needs the file any more."""


class ShardCache:
    """Fetches remote files into `folder` and keeps them while they fit into `budget` bytes.

    A fetch is tried `attempts` times when the store is unreachable, with pauses that double from
    `pause_s` on.
    """

    def __init__(
        self, folder: Path, budget: int, *, attempts: int = 4, pause_s: float = 0.5
    ) -> None:
        self.folder, self.budget = folder, budget
        self._attempts, self._pause_s = attempts, pause_s
        self._stores: dict[tuple[int, str], Store] = {}

    @classmethod
    def from_environment(cls) -> ShardCache:
        """Open the one in VILA_CACHE, of VILA_CACHE_SIZE. Raises UserError for a bad size."""
        return cls(cache_folder() / "shards", size_from_environment())

    def open(self, file: RemoteFile, stop: Callable[[], bool] = lambda: False) -> int:
        """Return a descriptor that reads the file, fetched if it isn't here.

        Raises NotFound, Damaged (the object has another content), Unreachable, StoreError (it can't
        be kept), UserError (larger than the budget), Stopped when `stop` says so on the way.
        """
        place = self._place(file)
        with self._explained(file):
            found = self._open_whole(place, file)
            if found is not None:
                return found
            with self._locked(_slot(file.sha256)):
                found = self._open_whole(place, file)  # somebody else may just have fetched it
                return self._fetch(file, place, stop) if found is None else found

    def holds(self, file: RemoteFile) -> bool:
        """Return whether the file is here."""
        return self._place(file).exists()

    def touch(self, files: Iterable[RemoteFile]) -> None:
        """Count files as just used, those that are here."""
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._place(file))

    def discard(self, file: RemoteFile) -> None:
        """Forget a file, so that it is fetched again."""
        self._place(file).unlink(missing_ok=True)

    def used(self) -> int:
        """Return the bytes of all files here, those that are being fetched included."""
        return sum(size for _, size, _ in self._entries())

    def _place(self, file: RemoteFile) -> Path:
        return self.folder / file.sha256

    def _open_whole(self, place: Path, file: RemoteFile) -> int | None:
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if file.size is not None and os.fstat(descriptor).st_size != file.size:
            os.close(descriptor)  # a power failure can do that to a renamed file
            place.unlink(missing_ok=True)
            return None
        os.utime(descriptor)
        return descriptor

    def _fetch(self, file: RemoteFile, place: Path, stop: Callable[[], bool]) -> int:
        """Fetch under the lock of the digest, again if that may help; return a descriptor."""
        part = place.with_name(place.name + _PART)
        changed = 0
        for attempt in range(1, self._attempts + 1):
            try:
                return self._download(file, place, part, stop)
            except NotFound:
                raise NotFound(f"{file.uri}: there is no such object.\n  fix: {file.fix}") from None
            except Damaged:
                changed += 1
                if changed == 2:  # the first may have been the network's fault
                    raise
            except Unreachable as error:
                if attempt == self._attempts:
                    raise Unreachable(f"{error}\n  tried {attempt} times.") from None
            finally:
                part.unlink(missing_ok=True)
            if stop():
                raise Stopped
            time.sleep(self._pause_s * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _download(self, file: RemoteFile, place: Path, part: Path, stop: Callable[[], bool]) -> int:
        self._make_room(part, file)
        found, size = hashlib.sha256(), 0
        with part.open("rb+") as target:
            for chunk in self._store(file.store).chunks(file.key):
                if stop():
                    raise Stopped
                found.update(chunk)
                size += len(chunk)
                if file.size is not None and size > file.size:
                    break
                target.write(chunk)
            self._check(file, size, found.hexdigest())
            target.flush()
            os.fsync(target.fileno())
        # Opened before it has its name: from then on another process may make room.
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        with self._locked("room"):  # who counts meanwhile may see it under neither name
            part.replace(place)
        return descriptor

    @staticmethod
    def _check(file: RemoteFile, size: int, sha256: str) -> None:
        if sha256 == file.sha256:
            return
        differs = f"its sha256 is {sha256[:12]}…, not {file.sha256[:12]}…"
        if file.size is not None and size != file.size:
            more = "more than " if size > file.size else ""
            told = file.size if size > file.size else size
            differs = f"it has {more}{told:,} bytes, not {file.size:,}"
        raise Damaged(
            f"{file.uri}: is not what the corpus's manifest says: {differs}. The object was "
            f"changed or damaged after the corpus was written.\n  fix: {file.fix}"
        )

    def _make_room(self, part: Path, file: RemoteFile) -> None:
        """Create `part` with the size of what comes, so that it counts from now on."""
        need = file.size or 0
        if need > self.budget:
            raise UserError(
                f"{file.uri}: has {need:,} bytes, the cache in {self.folder} may hold "
                f"{self.budget:,}.\n  fix: a larger VILA_CACHE_SIZE."
            )
        while True:
            with self._locked("room"):
                entries = sorted(self._live_entries(_slot(file.sha256)), key=lambda entry: entry[2])
                used = sum(size for _, size, _ in entries)
                for path, size, _ in entries:
                    if used + need <= self.budget:
                        break
                    if path.suffix != _PART:
                        path.unlink(missing_ok=True)
                        used -= size
                if used + need <= self.budget:
                    with part.open("wb") as target:
                        target.truncate(need)
                    return
            time.sleep(0.1)  # others are fetching as much as there is room for

    def _live_entries(self, own: str) -> Iterator[tuple[Path, int, int]]:
        """Yield the entries but for parts whose process is gone, which are removed."""
        for path, size, used in self._entries():
            slot = _slot(path.name)
            if path.suffix == _PART and (slot == own or self._is_free(slot)):
                path.unlink(missing_ok=True)
            else:
                yield path, size, used

    def _entries(self) -> Iterator[tuple[Path, int, int]]:
        """Yield path, size and time of last use of every file here."""
        with os.scandir(self.folder) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file():
                        status = entry.stat()
                        yield Path(entry.path), status.st_size, status.st_mtime_ns

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with self._lock_file(name) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by closing, or by the kernel
            yield

    def _is_free(self, name: str) -> bool:
        with self._lock_file(name) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    @contextlib.contextmanager
    def _lock_file(self, name: str) -> Iterator[int]:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _store(self, uri: str) -> Store:
        """Return this process's own client: connections don't survive a fork."""
        key = (os.getpid(), uri)
        if key not in self._stores:
            self._stores[key] = open_store(uri)
        return self._stores[key]

    @contextlib.contextmanager
    def _explained(self, file: RemoteFile) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                reason = "no space left; free some, or set VILA_CACHE or a smaller VILA_CACHE_SIZE"
            raise StoreError(f"{file.uri}: can't be kept in {self.folder}: {reason}.") from error


def size_from_environment() -> int:
    """Return VILA_CACHE_SIZE in bytes. Raises UserError when it is no size."""
    text = os.environ.get("VILA_CACHE_SIZE") or DEFAULT_SIZE
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]iB|)", text)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not size:
        raise UserError(f"VILA_CACHE_SIZE={text}: is not a size; fix: for example 200GiB.")
    return size


def _slot(digest: str) -> str:
    """Return the lock of a digest. A few share one: locks are never removed, so they stay few."""
    return digest[:2]
