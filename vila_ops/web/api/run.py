"""One run, as JSON: its tasks, its curves, the end of a log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel

from components.runtime.secrets import mask, mask_text
from vila_core.errors import NotFound
from vila_ops.curves import Axis, read_curves
from vila_ops.metric_units import unit_of
from vila_ops.run_index import finite
from vila_ops.view import RunView, TaskView
from vila_ops.web.api.problem import ERRORS
from vila_ops.web.api.runs import Status
from vila_ops.web.loading import records_of, store_of
from vila_ops.web.records import log_end
from vila_ops.web.results import results, shots_table

router = APIRouter(prefix="/api/v1/runs/{run_id}", responses=ERRORS, tags=["runs"])

RunId = Annotated[str, Path(min_length=1, max_length=200)]
TaskName = Annotated[str, Query(max_length=200)]


class ArtifactItem(BaseModel):
    """What a task made."""

    name: str
    sha256: str
    uri: str


class TaskItem(BaseModel):
    """A task, as its latest attempt left it."""

    name: str
    stage: str
    status: str
    started_at: str | None
    duration_s: float | None
    exit_code: int | None
    attempt: int
    cached_from: str
    error: str
    done: float | None
    """How much of `total` is done, while it runs."""
    total: float | None
    metrics: dict[str, float]
    artifacts: list[ArtifactItem]


class RunDetail(BaseModel):
    """A run and its tasks, in the order of the graph."""

    run_id: str
    name: str
    recipe: str
    runner: str
    status: Status
    started_at: str
    duration_s: float | None
    code_digest: str
    config_digest: str
    config: dict[str, Any]
    """As it was resolved; secrets are masked."""
    error: str
    metrics: dict[str, float]
    tasks: list[TaskItem]
    version: str
    """The same while nothing in the record changes."""


class SeriesItem(BaseModel):
    """A metric by point: its mean there, and where a point stands for several rows its extremes."""

    label: str
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None


class CurvesItem(BaseModel):
    """Metrics over an axis; what is not finite is null."""

    x: list[float | None]
    x_label: Axis
    unit: str
    rows: int
    """How many rows of metrics the points stand for."""
    names: list[str]
    """All metrics that the task has."""
    series: list[SeriesItem]


class ScoreCurve(SeriesItem):
    """A benchmark's score by demonstrations, with its 95% interval."""


class InContext(BaseModel):
    """In-context-learning curves of an evaluation, in percent."""

    x: list[int]
    x_label: str
    unit: str
    series: list[ScoreCurve]


class LogEnd(BaseModel):
    """The end of a task's log, from the start of a line."""

    task: str
    text: str
    cut: bool
    """Whether there is more before it."""


@router.get("")
def run(request: Request, run_id: RunId) -> RunDetail:
    """Return a run, its tasks and its config."""
    loaded = records_of(request).load(run_id)
    view = loaded.view
    return RunDetail.model_validate(
        clean(
            {
                **{name: getattr(view, name) for name in _PLAIN},
                "config": mask(view.config),
                "metrics": _numbers(view.metrics),
                "tasks": [_task(task) for task in view.tasks],
                "version": loaded.version,
            }
        )
    )


_PLAIN = (
    "run_id",
    "name",
    "recipe",
    "runner",
    "status",
    "started_at",
    "duration_s",
    "code_digest",
    "config_digest",
    "error",
)


@router.get("/curves")
def curves(
    request: Request,
    run_id: RunId,
    task: TaskName,
    key: Annotated[list[str] | None, Query(max_length=50)] = None,
    axis: Literal["step", "tokens", "time"] = "step",
    points: Annotated[int, Query(ge=10, le=1000)] = 600,
) -> CurvesItem:
    """Return metrics of a task (`key`, several times; by default all) over an axis."""
    view = records_of(request).load(run_id).view
    found = read_curves(
        store_of(request), view, find_task(view, task), key or None, points, axis=axis
    )
    unit = unit_of(key[0]) if key and len(key) == 1 else ""
    return CurvesItem.model_validate(
        clean({**found.as_json(), "unit": unit, "rows": found.rows, "names": list(found.names)})
    )


@router.get("/in-context")
def in_context(request: Request, run_id: RunId, task: TaskName) -> InContext:
    """Return the scores of an evaluation by number of demonstrations."""
    view = records_of(request).load(run_id).view
    found = results(store_of(request), find_task(view, task))
    return InContext.model_validate(clean(shots_table(found.curves)))


@router.get("/log")
def log(request: Request, run_id: RunId, task: TaskName) -> LogEnd:
    """Return the end of the log of a task's latest attempt, at most 64 KiB."""
    view = records_of(request).load(run_id).view
    text, cut = log_end(store_of(request), view, find_task(view, task))
    return LogEnd(task=task, text=text, cut=cut)


def find_task(view: RunView, name: str) -> TaskView:
    """Return a task. Raises NotFound."""
    task = view.task(name)
    if task is None:
        names = ", ".join(one.name for one in view.tasks)
        raise NotFound(f"run {view.run_id} has no task '{name}'; its tasks: {names}.")
    return task


def _task(task: TaskView) -> dict[str, Any]:
    return {
        "name": task.name,
        "stage": task.stage,
        "status": task.status,
        "started_at": task.started_at,
        "duration_s": finite(task.duration_s),
        "exit_code": task.exit_code,
        "attempt": task.attempt,
        "cached_from": task.cached_from,
        "error": mask_text(task.error),
        "done": finite(task.progress.get("done")),
        "total": finite(task.progress.get("total")),
        "metrics": _numbers(task.metrics),
        "artifacts": [dict(one) for one in task.artifacts],
    }


def _numbers(metrics: Any) -> dict[str, float]:
    return {
        str(name): number
        for name, value in metrics.items()
        if (number := finite(value)) is not None
    }


def clean(value: Any) -> Any:
    """Return a value as JSON can hold it: halves of surrogate pairs become question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {clean(str(name)): clean(one) for name, one in value.items()}
    if isinstance(value, list | tuple) and value and not isinstance(value[0], float):
        return [clean(one) for one in value]
    if isinstance(value, float) and finite(value) is None:
        return None
    return value
