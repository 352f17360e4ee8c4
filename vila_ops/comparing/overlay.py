"""Curves of several runs over one axis: on one grid, smoothed, runs of one group as a band."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from components.runtime.folding import BUCKETS
from components.runtime.metric_rows import MOST_COLUMNS, MOST_LINE_BYTES, Numbers, pieces
from vila_core.errors import NotFound, Unreachable, VilaError
from vila_core.store import Store
from vila_ops.comparing.chosen import Chosen, Problem
from vila_ops.comparing.seeds import SeedGroup, seed_groups
from vila_ops.curves import Axis, Curves, read_curves
from vila_ops.runs import load_view
from vila_ops.view import RunView, TaskView

Bands = Literal["off", "range", "deviation"]
"""Runs that differ in seeds alone: each by itself, or their mean with its range or deviation."""

BANDS = {"off": "each run", "range": "mean and range", "deviation": "mean ± standard deviation"}
AXES = {"step": "steps", "tokens": "tokens trained on", "time": "seconds of training"}
SMOOTHINGS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99)
"""Shares of the moving average that are offered; 0 is none."""
FIRST = ("loss", "grad_norm", "lr", "tokens_per_s", "mfu", "memory_mib")
"""Metrics that are shown before others, and by default."""
READERS = 2
"""Files that are read side by side."""
MOST_ENVELOPES = 6
"""With more lines than this, what thinning folded into a point is not drawn around each."""


@dataclass(frozen=True)
class Line:
    """One run, or a group of runs: values on the grid, NaN where there are none.

    `low` and `high` are the band around it, None for none. `runs` are the places of its runs.
    """

    label: str
    runs: tuple[int, ...]
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class Chart:
    """A metric of all runs. `x` is the same for all charts of an overlay."""

    metric: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Overlay:
    """The charts of one task, and what could not be read. `rows` were read in all."""

    task: str
    axis: Axis
    x: Numbers
    charts: tuple[Chart, ...]
    problems: tuple[Problem, ...]
    rows: int


@dataclass(frozen=True)
class _Grid:
    """Mean, least and greatest value: metric, run, place on the axis."""

    mean: Numbers
    low: Numbers
    high: Numbers


def overlay(
    store: Store,
    runs: Sequence[Chosen],
    task: str,
    metrics: Sequence[str],
    *,
    axis: Axis = "step",
    points: int = 400,
    smooth: float = 0.0,
    bands: Bands = "off",
) -> Overlay:
    """Return curves of a task that runs have in common, in at most `points` points each.

    `smooth` is the share of what was before in the moving average, see `averaged`; bands are not
    smoothed. A run without the task is left out; one whose rows can't be read is a problem.
    """
    read: list[Curves | None] = []
    problems = []
    seen: set[str] = set()
    with ThreadPoolExecutor(READERS) as pool:
        asked = [pool.submit(_read, store, one.view, task, metrics, axis, points) for one in runs]
    for one, answer in zip(runs, asked, strict=True):
        try:
            found = answer.result()
            drawn = one.view.run_id in seen  # two evaluations of one run share its curves
            read.append(None if drawn else found)
            seen.add(one.view.run_id)
        except Unreachable:
            raise
        except (VilaError, OSError, ValueError, TypeError, KeyError) as error:
            problems.append(Problem(one.name, f"its curves can't be read: {error}"))
            read.append(None)
    x = _axis([each.x for each in read if each is not None], points)
    grid = _placed(read, metrics, x)
    groups = (
        seed_groups(runs)
        if bands != "off"
        else [SeedGroup((place,), one.letter, ()) for place, one in enumerate(runs)]
    )
    groups = [kept for group in groups if (kept := _with_curves(group, read, runs)) is not None]
    few = len(groups) <= MOST_ENVELOPES
    thinned = any(each is not None and each.thinned for each in read)
    raw = [
        _lines(groups, _Grid(grid.mean[place], grid.low[place], grid.high[place]), x, bands)
        for place in range(len(metrics))
    ]
    if not (few and thinned):
        raw = [[_bare(line) for line in lines] for lines in raw]
    charts = [
        Chart(metric, tuple(lines))
        for metric, lines in zip(metrics, _smoothed(raw, smooth), strict=True)
    ]
    total = sum(each.rows for each in read if each is not None)
    return Overlay(task, axis, x, tuple(charts), tuple(problems), total)


def line_label(line: Line, runs: Sequence[Chosen]) -> str:
    """Return what a line is called in a legend."""
    if len(line.runs) == 1:
        return runs[line.runs[0]].short
    return f"{line.label}: mean of {len(line.runs)}"


def curve_tasks(runs: Sequence[Chosen]) -> list[str]:
    """Return the tasks that wrote curves, in the order of the graph."""
    return list(
        dict.fromkeys(task.name for one in runs for task in one.view.tasks if task.loss is not None)
    )


def default_task(tasks: list[str]) -> str:
    """Return the task whose curves are shown first: the last one of the graph."""
    return tasks[-1] if tasks else ""


def curve_names(store: Store, runs: Sequence[Chosen], task: str) -> list[str]:
    """Return the metrics that runs have curves of, what matters most first.

    By the first row of each file alone, so that a page need not read all of it.
    """
    found: dict[str, None] = {}
    for one in runs:
        try:
            source = source_of(store, one.view, task)
            if source is not None:
                view, its = source
                key = f"runs/{view.run_id}/tasks/{its.name}/{its.attempt:03d}/metrics.jsonl"
                found |= dict.fromkeys(_columns_of(_head(store, key)))
        except Unreachable:
            raise
        except (VilaError, OSError, ValueError, TypeError, KeyError):
            continue
    first = [name for name in FIRST if name in found]
    return first + sorted(found.keys() - set(first))[:MOST_COLUMNS]


def _head(store: Store, key: str) -> bytes:
    """Return the first row of a file; nothing where there is none, or it is no row of ours."""
    path = store.local_path(key)
    try:
        if path is not None:
            with path.open("rb") as file:
                data = file.readline(MOST_LINE_BYTES)
        else:
            data = next(pieces(store.chunks(key)), b"").partition(b"\n")[0] + b"\n"
    except (NotFound, FileNotFoundError):
        return b""
    return data if data.endswith(b"\n") else b""


def _columns_of(line: bytes) -> list[str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return []
    if not isinstance(row, dict):
        return []
    return [
        name
        for name, value in row.items()
        if name not in ("step", "time")
        and isinstance(value, int | float | None)
        and not isinstance(value, bool)
    ]


def source_of(store: Store, view: RunView, name: str) -> tuple[RunView, TaskView] | None:
    """Return whose attempt holds a task's curves: of a cached one, the run that it came from."""
    task = view.task(name)
    if task is None or not task.attempt:
        return None
    if not task.cached or not task.cached_from:
        return view, task
    try:
        source = load_view(store, task.cached_from)
    except NotFound:
        return None
    other = source.task(name)
    return None if other is None or not other.attempt else (source, other)


def _read(
    store: Store, view: RunView, task: str, metrics: Sequence[str], axis: Axis, points: int
) -> Curves | None:
    found = source_of(store, view, task)
    if found is None:
        return None
    return read_curves(store, *found, metrics, max(points, 2 * BUCKETS), axis=axis)


def _axis(axes: Sequence[Numbers], points: int) -> Numbers:
    """Return the grid: all places where they are few, else columns of equal width."""
    if not axes:
        return np.empty(0)
    every = np.unique(np.concatenate(axes))
    every = every[np.isfinite(every)]
    if len(every) <= points:
        return every
    edges = np.linspace(every[0], every[-1], points + 1)
    return (edges[:-1] + edges[1:]) / 2


def _placed(read: Sequence[Curves | None], metrics: Sequence[str], x: Numbers) -> _Grid:
    shape = (len(metrics), len(read), len(x))
    grid = _Grid(*(np.full(shape, np.nan) for _ in range(3)))
    for number, each in enumerate(read):
        if each is None or not len(each.x) or not len(x) or not metrics:
            continue
        at = _columns(each.x, x)
        first = np.flatnonzero(np.diff(at, prepend=-1))
        series = [each.series[metric] for metric in metrics]
        y, low, high = (
            np.stack([getattr(one, part) for one in series]) for part in ("y", "low", "high")
        )
        grid.low[:, number, at[first]] = np.fmin.reduceat(low, first, axis=1)
        grid.high[:, number, at[first]] = np.fmax.reduceat(high, first, axis=1)
        known = np.isfinite(y)
        sums = np.add.reduceat(np.where(known, y, 0.0), first, axis=1)
        with np.errstate(invalid="ignore"):
            mean = sums / np.add.reduceat(known.astype(float), first, axis=1)
        grid.mean[:, number, at[first]] = mean
    return grid


def _columns(places: Numbers, x: Numbers) -> np.ndarray:
    """Return the column of the grid that each of some rising places is nearest to."""
    if len(x) == 1:
        return np.zeros(len(places), dtype=np.intp)
    return np.searchsorted((x[:-1] + x[1:]) / 2, places)


def _with_curves(
    group: SeedGroup, read: Sequence[Curves | None], runs: Sequence[Chosen]
) -> SeedGroup | None:
    """Return a group without the runs that have no curves."""
    members = tuple(place for place in group.members if read[place] is not None)
    letters = ", ".join(runs[place].letter for place in members)
    return SeedGroup(members, letters, group.seeds) if members else None


def _band(values: Numbers, x: Numbers, bands: Bands) -> tuple[Numbers, Numbers, Numbers]:
    """Return mean and band of a group's runs, where all of them have a value."""
    filled = np.stack([_filled(one, x) for one in values])
    known = np.isfinite(filled).all(axis=0)
    filled = np.where(known, filled, np.nan)
    mean = filled.mean(axis=0)
    if bands == "range":
        return mean, filled.min(axis=0), filled.max(axis=0)
    spread = filled.std(axis=0, ddof=1)
    return mean, mean - spread, mean + spread


def _filled(values: Numbers, x: Numbers) -> Numbers:
    """Fill the gaps between values by straight lines; nothing before the first, after the last."""
    known = np.isfinite(values)
    if not known.any():
        return values
    return np.interp(x, x[known], values[known], left=np.nan, right=np.nan)


def _lines(groups: Sequence[SeedGroup], grid: _Grid, x: Numbers, bands: Bands) -> list[Line]:
    """Return the lines of one metric: a group of runs is its mean and band."""
    found = []
    for group in groups:
        members = list(group.members)
        mean = grid.mean[members]
        if not np.isfinite(mean).any():
            continue
        if group.repeated:
            found.append(Line(group.letters, group.members, *_band(mean, x, bands)))
        else:
            envelope = grid.low[members[0]], grid.high[members[0]]
            found.append(Line(group.letters, group.members, mean[0], *envelope))
    return found


def _bare(line: Line) -> Line:
    """Return a line without the envelope of thinning; a group keeps its band."""
    return line if len(line.runs) > 1 else Line(line.label, line.runs, line.y)


def _smoothed(charts: Sequence[list[Line]], share: float) -> list[list[Line]]:
    """Return lines smoothed; bands show what was."""
    rows = [line.y for lines in charts for line in lines]
    if not share or not rows:
        return list(charts)
    found = iter(averaged(np.stack(rows), share))
    return [[replace(line, y=next(found)) for line in lines] for lines in charts]


def averaged(values: Numbers, share: float) -> Numbers:
    """Return the exponential moving average of each row, `share` of it being what was before.

    Corrected for its start: the weights of what was seen so far sum to one. A place without a value
    stays without one, and does not count.
    """
    sums = np.zeros(len(values))
    weights = np.zeros(len(values))
    out = np.full(values.shape, np.nan)
    columns = np.ascontiguousarray(values.T)
    known = np.isfinite(columns)
    plain = np.where(known, columns, 0.0)
    for place, there in enumerate(known):
        sums = np.where(there, share * sums + (1 - share) * plain[place], sums)
        weights = np.where(there, share * weights + (1 - share), weights)
        out[there, place] = sums[there] / weights[there]
    return out
