"""Nearest 64-bit hashes, exactly: multi-index look-up by the pigeonhole principle.

A hash is cut into 4 pieces of 16 bits. Of two hashes that differ in at most d bits, some piece
differs in at most d // 4 of its bits; so all hashes within d of a query share a bucket with one of
the query's pieces, or with a neighbour of it (Norouzi, Punjani, Fleet: Fast exact search in Hamming
space with multi-index hashing, 2012). What the buckets hold is then compared bit by bit: the answer
is that of comparing with everything.
"""

from __future__ import annotations

import itertools

import numpy as np

_PIECES, _BITS = 4, 16
_BUCKETS = 1 << _BITS
_TAIL = 1024  # newest hashes, compared one by one
_GROWTH = 16  # a level holds so many times what the one before it holds
_AT_ONCE = 1 << 21  # candidates compared in one go: bounds the memory of a look-up
_CROWDED = 16  # where buckets hold more than one hash in so many, comparing all of them is faster
_NOBODY = np.iinfo(np.int64).max


class HammingIndex:
    """Hashes with numbers 0, 1, 2… in the order in which they were added.

    Memory is some 30 bytes a hash. Hashes are looked up in levels, each 16 times as large as the
    one before, so that adding costs a few sorts of each hash in all.
    """

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._probes = _neighbours(distance // _PIECES)
        self._hashes = np.zeros(_TAIL, dtype=np.uint64)
        self._count = 0
        self._levels: list[_Level] = []  # the oldest and largest first

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> int:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return int(self._hashes[number])

    def add(self, hashes: np.ndarray) -> None:
        """Append hashes (B,) uint64."""
        needed = self._count + len(hashes)
        if needed > len(self._hashes):
            grown = np.zeros(max(needed, len(self._hashes) * 3 // 2), dtype=np.uint64)
            grown[: self._count] = self._hashes[: self._count]
            self._hashes = grown
        self._hashes[self._count : needed] = hashes
        self._count = needed
        if self._count - self._indexed > _TAIL:
            self._settle()

    def first(self, hashes: np.ndarray) -> np.ndarray:
        """Return for each hash (B,) the least number (B,) int64 within the distance, or -1."""
        found = np.full(len(hashes), _NOBODY)
        if not len(hashes):
            return found
        for level in self._levels:
            self._look_up(level, hashes, found)
        self._compare_all(self._indexed, self._count, hashes, np.arange(len(hashes)), found)
        return np.where(found == _NOBODY, -1, found)

    def near(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return whether hashes, broadcast against each other, are within the distance."""
        return np.bitwise_count(left ^ right) <= self._distance

    def admit(self, hashes: np.ndarray) -> np.ndarray:
        """Return for each hash (B,) the number (B,) int64 of what it repeats, or its own.

        What repeats nothing is added. So the first of its kind stands for all that follow, and the
        result is the same however a sequence is cut into batches.
        """
        found = self.first(hashes)
        earlier = self.pairs(hashes, found < 0)
        added: dict[int, int] = {}  # place in the batch -> number
        for place in np.flatnonzero(found < 0).tolist():
            leader = next((added[p] for p in earlier.get(place, ()) if p in added), None)
            if leader is None:
                leader = added[place] = self._count + len(added)
            found[place] = leader
        self.add(hashes[list(added)])
        return found

    def pairs(self, hashes: np.ndarray, among: np.ndarray) -> dict[int, list[int]]:
        """Return which hashes (B,) lie within the distance of earlier ones of the same batch.

        Only those where `among` (B,) is true. Keys and values are places in the batch, ascending.
        """
        places = np.flatnonzero(among)
        found: dict[int, list[int]] = {}
        if len(places) < 2:
            return found
        step = max(1, _AT_ONCE // len(places))
        for start in range(0, len(places), step):
            rows = places[start : start + step]
            near = self.near(hashes[rows, None], hashes[places])
            near &= places < rows[:, None]
            for row, column in zip(*np.nonzero(near), strict=True):
                found.setdefault(int(rows[row]), []).append(int(places[column]))
        return found

    @property
    def _indexed(self) -> int:
        return self._levels[-1].stop if self._levels else 0

    def _settle(self) -> None:
        """Move the tail into a level, together with the levels that are no larger than that."""
        start = self._indexed
        while self._levels and self._levels[-1].size <= _room(self._count - start):
            start = self._levels.pop().start
        self._levels.append(_Level(self._hashes, start, self._count))

    def _look_up(self, level: _Level, hashes: np.ndarray, found: np.ndarray) -> None:
        pieces = _pieces(hashes)[:, :, None] ^ self._probes  # (B, 4, probes)
        buckets = (pieces + level.first_bucket).reshape(len(hashes), -1)
        begin = level.begin[buckets]
        size = level.begin[buckets + 1] - begin
        crowded = size.sum(axis=1) > level.size // _CROWDED
        if crowded.any():
            self._compare_all(level.start, level.stop, hashes, np.flatnonzero(crowded), found)
            size[crowded] = 0
        ends = np.cumsum(size.sum(axis=1))
        row = 0
        while row < len(hashes):
            done = int(ends[row - 1]) if row else 0
            stop = max(row + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
            sizes = size[row:stop].ravel()
            total = int(ends[stop - 1]) - done
            places = np.arange(total) + np.repeat(
                begin[row:stop].ravel() - (np.cumsum(sizes) - sizes), sizes
            )
            number = level.members[places] + level.start
            query = np.repeat(np.arange(row, stop), size[row:stop].sum(axis=1))
            hit = self.near(self._hashes[number], hashes[query])
            np.minimum.at(found, query[hit], number[hit])
            row = stop

    def _compare_all(
        self, start: int, stop: int, hashes: np.ndarray, rows: np.ndarray, found: np.ndarray
    ) -> None:
        """Compare the hashes in `rows` with the numbers `start` to `stop`, one by one."""
        known = self._hashes[start:stop]
        step = max(1, _AT_ONCE // max(len(known), 1))
        for begin in range(0, len(rows) if len(known) else 0, step):
            some = rows[begin : begin + step]
            near = self.near(hashes[some, None], known)
            hit = np.where(near.any(axis=1), near.argmax(axis=1) + start, _NOBODY)
            found[some] = np.minimum(found[some], hit)


class _Level:
    """The hashes of numbers `start` to `stop` in buckets: 4 tables, one after the other."""

    first_bucket = (np.arange(_PIECES, dtype=np.int64) * _BUCKETS)[None, :, None]

    def __init__(self, hashes: np.ndarray, start: int, stop: int) -> None:
        self.start, self.stop, self.size = start, stop, stop - start
        sizes: list[np.ndarray] = []
        members: list[np.ndarray] = []
        for piece in range(_PIECES):
            of_piece = (hashes[start:stop] >> np.uint64(piece * _BITS)).astype(np.uint16)
            sizes.append(np.bincount(of_piece, minlength=_BUCKETS))
            members.append(np.argsort(of_piece, kind="stable").astype(np.int32))
        # (4 * buckets + 1,): members[begin[b] : begin[b + 1]] are in bucket b
        self.begin = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        self.members = np.concatenate(members)


def leaders(hashes: np.ndarray, distance: int, *, batch: int = 1024) -> np.ndarray:
    """Return for each hash (N,) uint64 the place (N,) int64 of the hash that it repeats.

    That is the earliest within `distance` bits that repeats none itself, or else its own place.
    """
    index, places = HammingIndex(distance), np.zeros(len(hashes), dtype=np.int64)
    first_place = np.zeros(len(hashes), dtype=np.int64)
    for start in range(0, len(hashes), batch):
        before = len(index)
        numbers = index.admit(hashes[start : start + batch])
        new, where = np.unique(numbers, return_index=True)
        fresh = new >= before
        first_place[new[fresh]] = where[fresh] + start
        places[start : start + batch] = first_place[numbers]
    return places


def _room(count: int) -> int:
    """Return the size of the smallest level that holds `count` hashes."""
    room = _TAIL
    while room < count:
        room *= _GROWTH
    return room


def _pieces(hashes: np.ndarray) -> np.ndarray:
    """Return the 4 pieces of each hash (B, 4) int64."""
    shifts = np.arange(_PIECES, dtype=np.uint64) * np.uint64(_BITS)
    return ((hashes[:, None] >> shifts) & np.uint64(_BUCKETS - 1)).astype(np.int64)


def _neighbours(radius: int) -> np.ndarray:
    """Return what to xor a piece with to reach all within `radius` bits, the piece itself first."""
    return np.array(
        [
            sum(1 << bit for bit in bits)
            for size in range(radius + 1)
            for bits in itertools.combinations(range(_BITS), size)
        ],
        dtype=np.int64,
    )
