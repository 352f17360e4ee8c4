"""Records of one size by key in a file: append-only, bounded, shared by the ranks of a machine.

`NAME.records` holds the records, `NAME.index` one entry per record: its key (sha256) and a check of
its bytes. An entry is written after its record, under a lock on the index; so what the index names
is there, except after a loss of power, which the check finds.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path

import numpy as np

_KEY, _CHECK = 32, 16
_ENTRY = _KEY + _CHECK


class FeatureFile:
    """The records below `path` (a name without an ending), made if they aren't there.

    `budget` bounds both files together, in bytes; a record for which there is no room is not kept.
    Raises OSError where the files can't be made.
    """

    def __init__(self, path: Path, record_bytes: int, budget: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._size, self.capacity = record_bytes, budget // (record_bytes + _ENTRY)
        self._slots: dict[bytes, int] = {}
        self._unchecked: dict[int, bytes] = {}  # records of other processes, not read here yet
        self._known = 0  # entries of the index that `_slots` has
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._index = os.open(f"{path}.index", flags, 0o644)
        self._records = os.open(f"{path}.records", flags, 0o644)
        self.refresh()

    def __len__(self) -> int:
        return len(self._slots)

    def refresh(self) -> None:
        """Learn of the records that other processes have written."""
        there = os.fstat(self._index).st_size // _ENTRY  # an entry that was cut off is none
        data = os.pread(self._index, (there - self._known) * _ENTRY, self._known * _ENTRY)
        for start in range(0, len(data) - _ENTRY + 1, _ENTRY):
            self._slots[data[start : start + _KEY]] = self._known
            self._unchecked[self._known] = data[start + _KEY : start + _ENTRY]
            self._known += 1

    def read(self, key: bytes, into: np.ndarray) -> bool:
        """Fill `into` (uint8, of the record's size) and return True; False where there is none.

        The first read of a record that another process wrote compares it with its check. A damaged
        one counts as absent.
        """
        slot = self._slots.get(key)
        if slot is None:
            return False
        count = os.preadv(self._records, [into.data], slot * self._size)
        check = self._unchecked.pop(slot, None)
        if count == self._size and (check is None or _check(into) == check):
            return True
        del self._slots[key]  # `write` appends it anew
        return False

    def write(self, key: bytes, record: np.ndarray) -> bool:
        """Keep a record (uint8) unless there is one of this key; return False if there's no room.

        Raises OSError when the disk is full.
        """
        fcntl.flock(self._index, fcntl.LOCK_EX)
        try:
            self.refresh()
            if key in self._slots:
                return True
            slot = self._known
            if slot >= self.capacity:
                return False
            _write(self._records, record.data, slot * self._size)
            _write(self._index, memoryview(key + _check(record)), slot * _ENTRY)
            self._slots[key] = slot
            self._known += 1
            return True
        finally:
            fcntl.flock(self._index, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files."""
        os.close(self._index)
        os.close(self._records)


def _check(record: np.ndarray) -> bytes:
    return hashlib.blake2b(record.data, digest_size=_CHECK).digest()


def _write(file: int, data: memoryview, offset: int) -> None:
    if os.pwrite(file, data, offset) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
