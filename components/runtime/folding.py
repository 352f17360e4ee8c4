"""Rows of metrics folded into some hundred buckets, of which no spike is lost.

A bucket stands for equally many rows and has the mean, the least and the greatest value of every
column. An attempt that ends writes its buckets beside `metrics.jsonl` where that is long, so that
nobody has to read all of it to draw it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.runtime.metric_rows import Numbers, columns, pieces
from vila_core.store.base import RESERVED

BUCKETS = 1024
"""The most that are kept of a file, and at least half as many of a longer one."""
ROWS, FOLDED = "metrics.jsonl", "metrics.safetensors"
LONG_BYTES = 2**20
"""Shorter files are read as quickly as their buckets would be."""
PER_STEP = "\0tokens per step"
"""A column that is made of others, for the axis of tokens."""


class Folded:
    """The rows of one file in at most `BUCKETS` buckets of `width` rows, and some rows over."""

    def __init__(self, only: frozenset[str] | None = None) -> None:
        self.only = only
        self.lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.names: dict[str, int] = {}
        self.width = 1
        self.offset = 0  # bytes that were read: whole lines
        self.inode = -1
        self.rows = 0
        self.read_at = 0.0
        self._stats = np.empty((4, 0, 0))  # mean, low, high, count; bucket; column
        self._over = np.empty((0, 0))  # row, column

    @property
    def bytes(self) -> int:
        """What it holds."""
        return self._stats.nbytes + self._over.nbytes

    def to_bytes(self) -> bytes:
        """Return all of it as a safetensors file."""
        from safetensors.numpy import save

        told = {"offset": self.offset, "rows": self.rows, "width": self.width}
        text = json.dumps({"names": list(self.names), **told}).encode()
        return save(
            {
                "stats": np.ascontiguousarray(self._stats),
                "over": np.ascontiguousarray(self._over),
                "told": np.frombuffer(text, dtype=np.uint8),
            }
        )

    def restore(self, data: bytes) -> bool:
        """Take what `to_bytes` gave; return False, and hold nothing, for anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        self.forget()
        try:
            arrays = load(data)
            told = json.loads(arrays["told"].tobytes())
            self.names = {str(name): place for place, name in enumerate(told["names"])}
            self.offset, self.rows, self.width = (
                int(told[name]) for name in ("offset", "rows", "width")
            )
            self._stats, self._over = arrays["stats"], arrays["over"]
            whole = self._is_whole()
            self.only = None if whole else self.only
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, OverflowError):
            whole = False
        if not whole:
            self.forget()
        return whole

    def _is_whole(self) -> bool:
        """Return whether its parts fit each other."""
        stats, over, many = self._stats, self._over, len(self.names)
        return (
            stats.dtype == over.dtype == np.float64
            and stats.ndim == 3
            and over.ndim == 2
            and stats.shape[::2] == (4, many)
            and over.shape[1] == many
            and stats.shape[1] < BUCKETS
            and len(over) < self.width
            and min(self.offset, self.rows) >= 0
        )

    def add(self, piece: bytes) -> None:
        """Take whole lines of a file."""
        found = columns(piece, self.only)
        step = found.get("step")
        if step is None:
            return
        if "tokens_per_s" in found and "step_s" in found:
            with np.errstate(over="ignore"):
                found[PER_STEP] = found["tokens_per_s"] * found["step_s"]
        kept = np.isfinite(step)
        for name in found:
            self.names.setdefault(name, len(self.names))
        rows = np.full((int(kept.sum()), len(self.names)), np.nan)
        for name, values in found.items():
            rows[:, self.names[name]] = values[kept]
        rows[~np.isfinite(rows)] = np.nan
        self.rows += len(rows)
        missing = len(self.names) - self._over.shape[1]
        if missing:
            self._over = np.pad(self._over, ((0, 0), (0, missing)), constant_values=np.nan)
            self._stats = np.pad(
                self._stats, ((0, 0), (0, 0), (0, missing)), constant_values=np.nan
            )
            self._stats[3][np.isnan(self._stats[3])] = 0
        self._take(np.concatenate([self._over, rows]))

    def _take(self, rows: Numbers) -> None:
        while len(rows) >= self.width:
            room = BUCKETS - self._stats.shape[1]
            whole = min(len(rows) // self.width, room)
            new = _reduced(_as_stats(rows[: whole * self.width]), self.width)
            self._stats = np.concatenate([self._stats, new], axis=1)
            rows = rows[whole * self.width :]
            if self._stats.shape[1] == BUCKETS:
                self._stats = _reduced(self._stats, 2)
                self.width *= 2
        self._over = rows.copy()

    def stats(self, names: Sequence[str]) -> Numbers:
        """Return mean, low, high and count by bucket of some columns."""
        stats = self._stats
        if len(self._over):
            stats = np.concatenate(
                [stats, _reduced(_as_stats(self._over), len(self._over))], axis=1
            )
        out = np.full((4, stats.shape[1], len(names)), np.nan)
        out[3] = 0
        for place, name in enumerate(names):
            if name in self.names:
                out[:, :, place] = stats[:, :, self.names[name]]
        return out


def _as_stats(rows: Numbers) -> Numbers:
    return np.stack([rows, rows, rows, np.isfinite(rows)])


def _reduced(stats: Numbers, width: int) -> Numbers:
    """Fold each `width` buckets into one, the last of what is left over."""
    if width == 1 or not stats.shape[1]:
        return stats
    return folded_at(stats, np.arange(0, stats.shape[1], width))


def folded_at(stats: Numbers, at: npt.NDArray[np.intp]) -> Numbers:
    """Fold buckets from each of `at` to before the next into one."""
    counts = np.add.reduceat(stats[3], at)
    lengths = np.diff(at, append=stats.shape[1])
    with np.errstate(all="ignore"):
        share = stats[3] / np.repeat(counts, lengths, axis=0)
        means = np.add.reduceat(np.where(stats[3] > 0, stats[0] * share, 0.0), at)
    means[counts == 0] = np.nan
    return np.stack([means, np.fmin.reduceat(stats[1], at), np.fmax.reduceat(stats[2], at), counts])


def fold_rows(folder: Path) -> None:
    """Write the buckets of an attempt's rows beside them, where the rows are long.

    It spares readers time and is no part of the record: what fails is left out.
    """
    rows = folder / ROWS
    part = folder / f"{RESERVED}{FOLDED}"
    with contextlib.suppress(Exception):  # how an attempt ended must be told all the same
        size = rows.stat().st_size
        if size < LONG_BYTES:
            return
        folded = Folded()
        with rows.open("rb") as file:
            for piece in pieces(iter(lambda: file.read(2**20), b"")):
                folded.add(piece)
                folded.offset += len(piece)
        if folded.bytes < size // 2:
            part.write_bytes(folded.to_bytes())
            part.replace(folder / FOLDED)
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)  # of a full disk it would take the last space
