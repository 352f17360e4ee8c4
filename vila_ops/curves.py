"""Curves of a task: rows of all its attempts, thinned so that no spike is lost.

Rows are folded while they are read: a file of a million rows becomes some hundred buckets of
equally many rows, each with the mean, the least and the greatest value of every column. Buckets of
files are remembered (within a bound), with how far the file was read: a live curve costs its new
rows. Of a long file that ended the buckets lie beside it (`components.runtime.folding`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from components.runtime.folding import FOLDED, PER_STEP, ROWS, Folded, folded_at
from components.runtime.metric_rows import Numbers, pieces
from vila_core.errors import NotFound
from vila_core.store import Store
from vila_ops.view import RunView, TaskView

MEMORY_BYTES = 48 * 2**20
WHOLE_BYTES = 64 * 2**20
"""Of a longer file only the columns that are asked for are read."""
SAVED_BYTES = 64 * 2**20
"""More than this is no file of buckets of ours."""
MOST_ATTEMPTS = 100
LIVE_SECONDS = 15.0
"""A file in a bucket that still grows is read again after so long."""

Axis = Literal["step", "tokens", "time"]
_FOR_AXES = frozenset({"step", "time", "tokens_per_s", "step_s"})


@dataclass(frozen=True)
class Series:
    """A metric by point of `x`: its mean, least and greatest value there; NaN where it has none."""

    y: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class Curves:
    """Metrics over one axis, rising. `rows` were read; with fewer of them a point is a row."""

    axis: Axis
    x: Numbers
    series: Mapping[str, Series]
    rows: int
    names: tuple[str, ...]
    """All columns that the rows have."""

    @property
    def thinned(self) -> bool:
        """Whether points stand for several rows."""
        return self.rows > len(self.x)

    def as_json(self) -> dict[str, Any]:
        """Return columns of a chart, as `static/js/chart.js` takes them; NaN becomes null."""
        listed = []
        for name, one in self.series.items():
            entry: dict[str, Any] = {"label": name, "y": listed_numbers(one.y)}
            if self.thinned:
                entry |= {"low": listed_numbers(one.low), "high": listed_numbers(one.high)}
            listed.append(entry)
        return {"x": listed_numbers(self.x), "x_label": self.axis, "series": listed}


def listed_numbers(values: Numbers) -> list[float | None]:
    """Return numbers as JSON has them, in seven digits: what is not finite is None."""
    with np.errstate(all="ignore"):
        digits = 6 - np.floor(np.log10(np.abs(values)))
        scale = 10.0 ** np.clip(np.where(np.isfinite(digits), digits, 0.0), -300, 300)
        short = np.round(values * scale) / scale
    short = np.where(np.isfinite(short), short, values)
    listed: list[float | None] = short.tolist()
    for place in np.flatnonzero(~np.isfinite(short)):
        listed[place] = None
    return listed


class CurveMemory:
    """What was read, by file; what was not asked for longest goes first. For several threads."""

    def __init__(self, most_bytes: int = MEMORY_BYTES) -> None:
        """Keep at most so many bytes."""
        self._most = most_bytes
        self._held: OrderedDict[tuple[str, str], Folded] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is held."""
        with self._lock:
            return sum(one.bytes for one in self._held.values())

    def folded(self, store: Store, key: str, wanted: frozenset[str], *, ended: bool) -> Folded:
        """Return the rows of a file as they are now. Raises StoreError."""
        held_as = (store.uri, key)
        with self._lock:
            found = self._held.pop(held_as, None)
            if found is None or not (found.only is None or wanted <= found.only):
                found = Folded(_needed(store, key, wanted, found))
            self._held[held_as] = found
        with found.lock:
            _read_on(store, key, found, ended=ended)
        with self._lock:
            held = sum(one.bytes for one in self._held.values())
            while held > self._most and len(self._held) > 1:
                held -= self._held.popitem(last=False)[1].bytes
        return found


def _needed(
    store: Store, key: str, wanted: frozenset[str], before: Folded | None
) -> frozenset[str] | None:
    """Return the columns to read; None for all."""
    path = store.local_path(key)
    if path is None or not path.exists() or path.stat().st_size <= WHOLE_BYTES:
        return None
    known = before.only if before and before.only else frozenset()
    return known | wanted | _FOR_AXES


def _read_on(store: Store, key: str, folded: Folded, *, ended: bool) -> None:
    path = store.local_path(key)
    if path is None:
        fresh = folded.read_at and (ended or time.monotonic() - folded.read_at < LIVE_SECONDS)
        if fresh:
            return
        began = time.monotonic()
        if not (ended and folded.restore(_saved(store, key))):
            folded.forget()
            try:
                for piece in pieces(store.chunks(key)):
                    folded.add(piece)
            except NotFound:
                return
        folded.read_at = began
        return
    try:
        with path.open("rb") as file:
            status = path.stat()
            if folded.inode != status.st_ino or status.st_size < folded.offset:
                known = ended and folded.restore(_saved(store, key))
                if not known or folded.offset > status.st_size:
                    folded.forget()
                folded.inode = status.st_ino
            file.seek(folded.offset)
            for piece in pieces(iter(lambda: file.read(2**20), b"")):
                folded.add(piece)
                folded.offset += len(piece)
    except (FileNotFoundError, NotADirectoryError):
        folded.forget()


def _saved(store: Store, key: str) -> bytes:
    """Return the buckets that were written beside the rows; nothing where there are none."""
    held = bytearray()
    with contextlib.suppress(NotFound):
        for chunk in store.chunks(key.removesuffix(ROWS) + FOLDED):
            held += chunk
            if len(held) > SAVED_BYTES:
                return b""
    return bytes(held)


_memory = CurveMemory()


def read_curves(
    store: Store,
    view: RunView,
    task: TaskView,
    keys: Sequence[str] | None = None,
    points: int = 600,
    *,
    axis: Axis = "step",
    memory: CurveMemory = _memory,
) -> Curves:
    """Return some metrics (by default all) of a task over an axis, in at most `points` points.

    Where an attempt did steps again that an earlier one had done, the later one counts. `tokens`
    are those trained on so far, `time` the seconds since the first row's steps began, pauses
    between attempts included. Without what an axis needs in the rows there are no points.
    Raises StoreError.
    """
    parts = []
    names: dict[str, None] = {}
    rows = 0
    wanted = frozenset(keys or ()) | {"step"}
    if axis != "step":
        wanted |= _FOR_AXES
    for number in range(max(1, task.attempt - MOST_ATTEMPTS + 1), task.attempt + 1):
        place = f"runs/{view.run_id}/tasks/{task.name}/{number:03d}/{ROWS}"
        ended = number < task.attempt or task.status != "running"
        found = memory.folded(store, place, wanted, ended=ended)
        with found.lock:
            names |= dict.fromkeys(name for name in found.names if not name.startswith("\0"))
            shown = list(found.names) if keys is None else [*keys, *_FOR_AXES, PER_STEP]
            parts.append((shown, found.stats(shown)))
            rows += found.rows
    known = tuple(sorted(names.keys() - {"step", "time"}))
    asked = known if keys is None else tuple(dict.fromkeys(keys))
    x, stats = _on_axis(*_merged(parts, [*asked, "step", "time", "step_s", PER_STEP]), axis)
    if len(x) > points:
        at = np.arange(points) * len(x) // points
        x, stats = np.fmax.reduceat(x, at), folded_at(stats, at)
    series = {
        name: Series(*(stats[part, :, place] for part in range(3)))
        for place, name in enumerate(asked)
    }
    return Curves(axis, x, series, rows, known)


def _merged(
    parts: Sequence[tuple[list[str], Numbers]], names: list[str]
) -> tuple[list[str], Numbers]:
    """Return the buckets of all attempts by step; what a later attempt did again is left out."""
    kept: list[Numbers] = []
    redone: list[tuple[float, float]] = []
    for had, stats in reversed(parts):
        places = {name: place for place, name in enumerate(had)}
        out = np.full((4, stats.shape[1], len(names)), np.nan)
        out[3] = 0
        for place, name in enumerate(names):
            if name in places:
                out[:, :, place] = stats[:, :, places[name]]
        if not out.shape[1]:
            continue
        ends = out[2, :, names.index("step")]
        keep = np.ones(len(ends), dtype=bool)
        for first, last in redone:
            keep &= (ends < first) | (ends > last)
        redone.append((float(out[1, :, names.index("step")].min()), float(ends.max())))
        kept.append(out[:, keep])
    if not kept:
        return names, np.empty((4, 0, len(names)))
    joined = np.concatenate(kept[::-1], axis=1)
    order = np.argsort(joined[2, :, names.index("step")], kind="stable")
    return names, joined[:, order]


def _on_axis(names: list[str], stats: Numbers, axis: Axis) -> tuple[Numbers, Numbers]:
    """Return the axis and the buckets that have a place on it."""
    steps = stats[2, :, names.index("step")]
    if axis == "step" or not len(steps):
        return steps, stats
    if axis == "tokens":
        each = stats[0, :, names.index(PER_STEP)]
        if not np.isfinite(each).any():
            return steps[:0], stats[:, :0]
        with np.errstate(all="ignore"):
            return np.cumsum(np.nan_to_num(each) * np.diff(steps, prepend=0.0)), stats
    times = stats[2, :, names.index("time")]
    kept = np.isfinite(times)
    times, stats = times[kept], stats[:, kept]
    if not len(times):
        return times, stats
    before = stats[0, 0, names.index("step_s")] * stats[2, 0, names.index("step")]
    x = times - times[0] + (before if np.isfinite(before) else 0.0)
    order = np.argsort(x, kind="stable")
    return x[order], stats[:, order]


def iter_rows(curves: Curves) -> Iterator[dict[str, float | None]]:
    """Yield points as rows for a table, `axis` first."""
    lists = {curves.axis: listed_numbers(curves.x)}
    lists |= {name: listed_numbers(one.y) for name, one in curves.series.items()}
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(lists, values, strict=True))
