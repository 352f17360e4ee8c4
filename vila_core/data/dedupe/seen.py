"""What was seen first, in little memory: 64-bit hashes to row numbers, and keys by row."""

from __future__ import annotations

from array import array

import numpy as np

_RECENT = 1 << 15
_GROWTH = 16


class FirstSeen:
    """64-bit hashes with the row that had each first.

    Recent ones are in a dict, older ones in sorted arrays: 12 bytes a hash once there are many. Two
    different contents share a hash with a chance of n² / 2⁶⁵: 3 in 100,000 for 25 million.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._levels: list[tuple[np.ndarray, np.ndarray]] = []  # sorted hashes, rows; largest first

    def __len__(self) -> int:
        return len(self._recent) + sum(len(hashes) for hashes, _ in self._levels)

    def get(self, value: int) -> int | None:
        """Return the row that `value` was first set for, or None."""
        row = self._recent.get(value)
        if row is not None:
            return row
        wanted = np.uint64(value)
        for hashes, rows in self._levels:
            place = int(hashes.searchsorted(wanted))
            if place < len(hashes) and hashes[place] == wanted:
                return int(rows[place])
        return None

    def set(self, value: int, row: int) -> None:
        """Remember `row` for `value`, unless there is one already."""
        if self.get(value) is None:
            self._recent[value] = row
            if len(self._recent) >= _RECENT:
                self._settle()

    def _settle(self) -> None:
        hashes = np.fromiter(self._recent.keys(), dtype=np.uint64, count=len(self._recent))
        rows = np.fromiter(self._recent.values(), dtype=np.uint32, count=len(self._recent))
        self._recent = {}
        room = _RECENT
        while self._levels and len(self._levels[-1][0]) <= room:
            older, their_rows = self._levels.pop()
            hashes, rows = np.concatenate([older, hashes]), np.concatenate([their_rows, rows])
            while room < len(hashes):
                room *= _GROWTH
        order = np.argsort(hashes)
        self._levels.append((hashes[order], rows[order]))


class Keys:
    """Texts by number, end to end in one buffer: their bytes, and 8 more each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, key: str) -> int:
        """Add a text and return its number."""
        self._bytes += key.encode()
        self._ends.append(len(self._bytes))
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._bytes[start : self._ends[number]].decode()
