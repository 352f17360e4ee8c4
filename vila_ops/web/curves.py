"""The charts of a training: which metrics stand together, as drawings and for the script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import numpy as np
from markupsafe import Markup

from vila_core.store import Store
from vila_ops.curves import Curves, read_curves
from vila_ops.view import RunView, TaskView
from vila_ops.web.chart import COLUMNS, Line, drawing

CHARTS: tuple[tuple[str, str, str], ...] = (
    ("Loss", r"loss", "nats per supervised token"),
    ("Learning rate", r"lr(_\w+)?", ""),
    ("Gradient norm", r"grad_norm", "before clipping"),
    ("Throughput", r"(supervised_|image_)?tokens_per_s", "tokens / s"),
    ("MFU", r"mfu", "share of the peak"),
    ("Memory", r"memory_mib", "MiB"),
    ("Time of a step", r"(step|data_wait|forward|backward|optimiser|collective|checkpoint)_s", "s"),
    ("Pack fill, cache hits", r"pack_fill|feature_hit_rate", "share"),
)
"""Title, pattern of the columns, unit; docs/reference/metrics.md says what the columns are."""
MOST_SERIES = 8
_STAGES = ("sft", "pretrain", "align", "vision_tower", "language_model")


@dataclass(frozen=True)
class Chart:
    """A chart: the server's drawing, and where a script reads its curves."""

    title: str
    unit: str
    keys: tuple[str, ...]
    svg: Markup
    url: str
    first: float | None
    last: float | None
    rows: int
    thinned: bool

    @property
    def label(self) -> str:
        """What is shown, for who can't see it."""
        names = ", ".join(self.keys)
        if self.first is None or self.last is None:
            return f"{self.title}: {names}"
        return f"{self.title}: {names}, {self.first:.4g} at the start, {self.last:.4g} at the end"


def trained(view: RunView) -> list[TaskView]:
    """Return the tasks that may have curves: those with an attempt of their own that train."""
    return [
        task
        for task in view.tasks
        if task.attempt and not task.cached and (task.loss is not None or task.stage in _STAGES)
    ]


def usual(tasks: Sequence[TaskView]) -> TaskView | None:
    """Return the task whose curves are shown first: one that runs, else the furthest stage."""
    for task in tasks:
        if task.status == "running":
            return task
    by_stage = [task for stage in _STAGES for task in tasks if task.stage == stage]
    return next(iter([*by_stage, *tasks]), None)


def charts(store: Store, view: RunView, task: TaskView) -> list[Chart]:
    """Return the charts of a task that has rows of metrics. Raises StoreError."""
    found = read_curves(store, view, task, points=COLUMNS)
    made = []
    for title, pattern, unit in CHARTS:
        keys = tuple(name for name in found.names if re.fullmatch(pattern, name))[:MOST_SERIES]
        keys = tuple(sorted(keys, key=len))
        if keys:
            made.append(_chart(view, task, found, title, unit, keys))
    return made


def _chart(
    view: RunView, task: TaskView, found: Curves, title: str, unit: str, keys: tuple[str, ...]
) -> Chart:
    lines = [_line(found, key, index % 8 + 1) for index, key in enumerate(keys)]
    lead = lines[0].points
    chart = Chart(
        title=title,
        unit=unit,
        keys=keys,
        svg=Markup(""),
        url=f"/api/v1/runs/{quote(view.run_id, safe='')}/curves?"
        + urlencode({"task": task.name, "key": keys}, doseq=True, errors="replace"),
        first=lead[0][1] if lead else None,
        last=lead[-1][1] if lead else None,
        rows=found.rows if found.thinned else len(lead),
        thinned=found.thinned,
    )
    return Chart(**{**vars(chart), "svg": drawing(lines, chart.label)})


def _line(found: Curves, key: str, color: int) -> Line:
    one = found.series[key]
    kept = np.isfinite(one.y)
    points = list(zip(found.x[kept].tolist(), one.y[kept].tolist(), strict=True))
    band = (
        zip(one.low[kept].tolist(), one.high[kept].tolist(), strict=True) if found.thinned else ()
    )
    return Line(points, list(band), color)
