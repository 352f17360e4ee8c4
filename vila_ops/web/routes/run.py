"""One run, read anew for every visit: tasks, errors, curves, metrics, the end of a log."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from vila_core.errors import NotFound, StoreError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_ops.run_index import finite
from vila_ops.runs import load_view
from vila_ops.view import RunView, TaskView
from vila_ops.web.chart import curve
from vila_ops.web.pages import page
from vila_ops.web.records import LOG_BYTES, loss_points, read_json, tail, task_key
from vila_ops.web.watch import Watch

MOST_CURVES = 12

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Curve:
    """A drawn loss."""

    task: str
    svg: Markup
    points: int
    first: float
    last: float
    cut: bool


@dataclass(frozen=True)
class OnCluster:
    """Where a run was submitted to; `url` leads to it in Kubeflow Pipelines, if there is one."""

    name: str
    namespace: str
    url: str


@router.get("/runs/{run_id}")
def run(request: Request, run_id: str, task: str = "") -> Response:
    """Show a run; `task` is the one whose log is shown, by default the one that matters most."""
    watch: Watch = request.app.state.watch
    store = watch.store
    try:
        view = load_view(store, run_id)
        shown = view.task(task) or _telling(view)
        log, cut = (
            tail(store, task_key(view, shown, "log.txt"), LOG_BYTES) if shown else (b"", False)
        )
        curves = _curves(store, view)
        config = dumps(view.config, indent=2)
        return page(
            request,
            "run.html",
            run=view,
            shown=shown,
            log=log.decode("utf-8", "replace"),
            log_cut=cut,
            curves=curves,
            config=config,
            metrics=_metrics(view),
            progress={one.name: _progress(one) for one in view.tasks},
            cluster=_cluster(store, view),
            findings=_findings(store, view),
        )
    except NotFound:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if "/" in run_id or "\0" in run_id or run_id in ("", ".", ".."):
            raise NotFound(f"'{run_id}' is no run's id.") from None
        raise StoreError(
            f"runs/{run_id}: the record can't be read: {type(error).__name__}: {error}"
        ) from error


def _telling(view: RunView) -> TaskView | None:
    """Return the task that is most worth reading: failed, else running, else the latest."""
    begun = [one for one in view.tasks if one.attempt]
    for status in ("failed", "running"):
        for one in begun:
            if one.status == status:
                return one
    return max(begun, key=lambda one: str(one.started_at), default=None)


def _curves(store: Store, view: RunView) -> list[Curve]:
    found = []
    for task in view.tasks:
        if not task.attempt or task.cached or len(found) == MOST_CURVES:
            continue
        points, cut = loss_points(store, view, task)
        if points:
            first, last = points[0][1], points[-1][1]
            label = f"loss of {task.name}: {first:.4g} at the start, {last:.4g} at the end"
            found.append(Curve(task.name, curve(points, label), len(points), first, last, cut))
    return found


def _metrics(view: RunView) -> list[tuple[str, str, object]]:
    """Return (task, metric, value) of what tasks ended with."""
    return [
        (task.name, name, value)
        for task in view.tasks
        for name, value in sorted(task.metrics.items())
        if finite(value) is not None
    ]


def _progress(task: TaskView) -> str:
    done, total = finite(task.progress.get("done")), finite(task.progress.get("total"))
    if task.status != "running" or done is None or not total:
        return ""
    return f"{done:,.0f} of {total:,.0f} {task.progress.get('unit', '')}".rstrip()


def _cluster(store: Store, view: RunView) -> OnCluster | None:
    about = read_json(store, f"runs/{view.run_id}/cluster.json")
    if not isinstance(about, dict):
        return None
    kfp = about.get("kfp")
    url = str(kfp.get("url") or "") if isinstance(kfp, dict) else ""
    linked = url if url.startswith(("https://", "http://")) else ""
    return OnCluster(str(about.get("cluster", "")), str(about.get("namespace", "")), linked)


def _findings(store: Store, view: RunView) -> list[dict[str, str]]:
    """Return what was found on the cluster when the run ended otherwise than it should."""
    if view.status in ("running", "succeeded"):
        return []
    found = read_json(store, f"runs/{view.run_id}/findings.json")
    return [
        {name: str(one.get(name) or "") for name in ("task", "message", "fix")}
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict)
    ]
