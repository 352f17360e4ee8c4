"""One run: its graph, tasks, curves, mixture, scores, samples, config; each part by itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup
from starlette.exceptions import HTTPException

from components.runtime.secrets import mask
from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_ops.kept import Kept
from vila_ops.run_index import finite
from vila_ops.runs import stop_run
from vila_ops.view import RunView, TaskView
from vila_ops.web import about_run, curves, gallery, graph, results
from vila_ops.web.audit import note
from vila_ops.web.chart import Line, drawing
from vila_ops.web.forms import read_form
from vila_ops.web.loading import Loaded, records_of, samples_of, store_of
from vila_ops.web.pages import page
from vila_ops.web.parts import part
from vila_ops.web.records import log_end, read_json
from vila_ops.web.roles import Role, Viewer, needs
from vila_ops.why import Reason, explain

MOST_METRICS = 2000

router = APIRouter(include_in_schema=False)

_reasons: Kept[Reason] = Kept(2**20)


@dataclass(frozen=True)
class TaskPanel:
    """The task that is looked at closely."""

    task: TaskView
    log: str
    cut: bool


@router.get("/runs/{run_id}")
def run(request: Request, run_id: str) -> Response:
    """Show a run. `task` in the URL is the task that is looked at closely, `train` the one whose
    curves are drawn, `benchmark`, `shots`, `show` and `at` choose samples.
    """
    store = store_of(request)
    loaded = records_of(request).load(run_id)
    view = loaded.view
    given = request.query_params
    shown = view.task(given.get("task", "")) or _telling(view)
    training = curves.trained(view)
    train = next((task for task in training if task.name == given.get("train")), None)
    train = train or curves.usual(training)
    evaluations = part(lambda: _evaluations(store, view))
    on_cluster = part(lambda: about_run.cluster(store, view.run_id))
    return page(
        request,
        "run.html",
        run=view,
        asked={name: given[name] for name in _ASKED if name in given},
        shown=shown,
        panel=part(lambda: _panel(store, view, shown)),
        why=part(lambda: _why(store, loaded, shown)),
        tries=part(lambda: about_run.tries(loaded.record, shown.name) if shown else []),
        graph=part(lambda: _graph(store, loaded, shown)),
        training=training,
        train=train,
        charts=part(lambda: curves.charts(store, view, train) if train else []),
        mixtures=part(lambda: about_run.mixtures(view)),
        evaluations=evaluations,
        shots={one.task: _by_shots(one) for one in evaluations.value or ()},
        gallery=part(lambda: _gallery(request, view)),
        versions=part(lambda: about_run.versions_of(store, view.run_id)),
        certificates=part(lambda: about_run.certificates(store, view.run_id)),
        links=part(lambda: about_run.links(store, view, on_cluster.value)),
        cluster=on_cluster,
        findings=part(lambda: _findings(store, view)),
        metrics=_metrics(view),
        progress={one.name: _progress(one) for one in view.tasks},
        config=part(lambda: dumps(mask(view.config), indent=2)),
        environment=part(lambda: _environment(loaded)),
        promotable=view.status == "succeeded" and any(_model(task) for task in view.tasks),
        text=about_run.compact,
    )


_ASKED = ("task", "train", "benchmark", "shots", "show", "at")


@router.post("/runs/{run_id}/stop")
async def stop(
    request: Request,
    run_id: Annotated[str, Path(max_length=200)],
    viewer: Annotated[Viewer, Depends(needs(Role.runner))],
) -> Response:
    """Stop a run and everything that it started, as `vila stop` does."""
    from starlette.concurrency import run_in_threadpool

    note(request, "stop", run_id)
    await read_form(request)
    try:
        await run_in_threadpool(_stop, request, run_id)
    except UserError as error:
        raise HTTPException(409, str(error)) from None
    return RedirectResponse(f"/runs/{run_id}", 303)


def _stop(request: Request, run_id: str) -> None:
    store = store_of(request)
    view = records_of(request).load(run_id).view
    if view.runner == "cluster":
        from vila_ops.cluster import follow

        follow.stop(store, view.run_id)
    else:
        stop_run(store, view.run_id)


def _telling(view: RunView) -> TaskView | None:
    """Return the task that is most worth reading: failed, else running, else the latest."""
    begun = [one for one in view.tasks if one.attempt]
    for status in ("failed", "running"):
        for one in begun:
            if one.status == status:
                return one
    return max(begun, key=lambda one: str(one.started_at), default=None)


def _panel(store: Store, view: RunView, task: TaskView | None) -> TaskPanel | None:
    return TaskPanel(task, *log_end(store, view, task)) if task else None


def _why(store: Store, loaded: Loaded, task: TaskView | None) -> Reason | None:
    """Return why a task ran, which many earlier records may have to be read for: once."""
    if task is None or not task.attempt:
        return None
    begun = loaded.record.tasks[task.name][-1].started.get("key")
    name = (store.uri, loaded.view.run_id, task.name, task.attempt, begun, task.cached)

    def make() -> tuple[Reason, int]:
        found = explain(store, loaded.view.run_id, task.name)
        return found, 500 + 200 * len(found.differences)

    return _reasons.get(name, make)


def _graph(store: Store, loaded: Loaded, shown: TaskView | None) -> Markup:
    pipeline = loaded.view.config.get("pipeline")
    if not pipeline and not loaded.record.run.get("pipeline"):
        return Markup("")  # a run of single tasks
    edges = _edges(store, loaded.view.run_id, str(pipeline))
    return graph.drawing(loaded.view, edges, shown.name if shown else "")


@functools.lru_cache(maxsize=64)
def _edges(store: Store, run_id: str, pipeline: str) -> graph.Edges:
    return graph.edges_of(store, run_id, pipeline)


def _evaluations(store: Store, view: RunView) -> list[results.Results]:
    return [results.results(store, task) for task in results.evaluations(view)]


def _by_shots(found: results.Results) -> Markup:
    lines = []
    for index, scores in enumerate(found.curves.values()):
        band = [
            (100 * score.low, 100 * score.high)
            for score in scores
            if score.low is not None and score.high is not None
        ]
        points = [(float(score.shots), 100 * score.value) for score in scores]
        lines.append(Line(points, band if len(band) == len(points) else (), index % 8 + 1))
    return drawing(lines, f"In-context learning of {found.task}: accuracy by demonstrations")


def _gallery(request: Request, view: RunView) -> gallery.Gallery | None:
    given = request.query_params
    return gallery.gallery(
        store_of(request),
        samples_of(request),
        view,
        benchmark=given.get("benchmark", ""),
        shots=_small(given.get("shots", "")),
        show=given.get("show", "all"),
        page=_small(given.get("at", "")) or 1,
    )


def _small(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def _model(task: TaskView) -> bool:
    return any(one["name"] == "model" for one in task.artifacts)


def _metrics(view: RunView) -> list[tuple[str, str, float]]:
    """Return (task, metric, value) of what tasks ended with."""
    found = [
        (task.name, name, value)
        for task in view.tasks
        for name, value in sorted(task.metrics.items())
        if finite(value) is not None
    ]
    return found[:MOST_METRICS]


def _progress(task: TaskView) -> str:
    done, total = finite(task.progress.get("done")), finite(task.progress.get("total"))
    if task.status != "running" or done is None or not total:
        return ""
    return f"{done:,.0f} of {total:,.0f} {task.progress.get('unit', '')}".rstrip()


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


def _environment(loaded: Loaded) -> list[tuple[str, str]]:
    """Return what the run remembers of the machine, the packages and its command."""
    run = mask(loaded.record.run)
    found: list[tuple[str, str]] = []
    argv = run.get("argv")
    if isinstance(argv, list) and argv:
        found.append(("command", " ".join(["vila", *map(str, argv)])))
    known = run.get("environment")
    for name, value in (known if isinstance(known, Mapping) else {}).items():
        if isinstance(value, Mapping):
            found += [(str(key), str(one)) for key, one in value.items() if one is not None]
        else:
            found.append((str(name), str(value)))
    for title in ("images", "dvc"):
        value: Any = run.get(title)
        for name, one in (value if isinstance(value, Mapping) else {}).items():
            found.append((f"{title}: {name}", about_run.compact(one)))
    driver = loaded.record.driver
    if isinstance(driver, Mapping) and driver.get("host"):
        found.append(("driven by", f"{driver['host']}, process {driver.get('pid')}"))
    return found[:200]
