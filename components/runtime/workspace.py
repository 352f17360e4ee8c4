"""The work folder of a task key: survives crashes, used by one live process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vila_core.store import Store
from vila_core.store.artifacts import cache_folder

_POLL_SECONDS = 0.1


def work_folder(store: Store, key: str) -> Path:
    """Return the folder for `key`: in the store when it is a directory, else in the local cache."""
    return store.local_path(f"work/{key}") or cache_folder() / "work" / key


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[int], None]) -> Iterator[None]:
    """Hold the lock of a work folder; `waiting` is told once, with the other's pid (0: unknown).

    The kernel releases the lock of a process that dies, however it dies.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}.lock"
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(path, descriptor):  # else its last holder has just removed it
                break
        except BlockingIOError:
            if not told:
                waiting(int(os.pread(descriptor, 20, 0) or 0))
                told = True
            time.sleep(_POLL_SECONDS)
        os.close(descriptor)
    try:
        os.pwrite(descriptor, f"{os.getpid():020d}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _same(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False
