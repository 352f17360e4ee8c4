"""A comparison as files: plain links, for the same state as the page's."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from vila_core.errors import UserError
from vila_ops.comparing.chosen import Chosen, choose
from vila_ops.comparing.drawing import SCHEMES, Drawn, Panel, png, svg
from vila_ops.comparing.export import curves_csv, markdown, metrics_csv, settings_csv
from vila_ops.comparing.overlay import (
    AXES,
    Overlay,
    curve_names,
    curve_tasks,
    default_task,
    line_label,
    overlay,
)
from vila_ops.comparing.report import Report, make_report
from vila_ops.comparing.shots import shot_lines
from vila_ops.metric_units import unit_of
from vila_ops.web.compare_state import EVERY, State
from vila_ops.web.loading import pairs_of, store_of

FILE_PATIENCE = 15.0
"""A file waits longer for tests than a page does."""
POINTS = 600

router = APIRouter(prefix="/compare", include_in_schema=False)


@router.get("/table.md")
def table(request: Request) -> Response:
    """Answer with the tables for an issue."""
    site = f"{request.url.scheme}://{request.url.netloc}"
    return _file(markdown(_report(request), site=site), "text/markdown", "comparison.md")


@router.get("/metrics.csv")
def metrics(request: Request) -> Response:
    """Answer with metrics and tests."""
    return _file(metrics_csv(_report(request)), "text/csv", "metrics.csv")


@router.get("/settings.csv")
def settings(request: Request) -> Response:
    """Answer with the settings that differ, or all."""
    everything = State.of(request.query_params).settings == "all"
    return _file(settings_csv(_report(request), everything=everything), "text/csv", "settings.csv")


@router.get("/curves.csv")
def curves(request: Request) -> Response:
    """Answer with the curves that the page shows, or one metric's."""
    runs, drawn = _overlay(request, points=2000)
    return _file(curves_csv(drawn, runs), "text/csv", "curves.csv")


@router.get("/chart.{kind}")
def chart(request: Request, kind: str) -> Response:
    """Answer with a drawing of one metric."""
    state = State.of(request.query_params)
    runs, drawn = _overlay(request)
    if not drawn.charts:
        raise HTTPException(404, "name a metric that one of the runs has: ?metric=loss")
    shown = drawn.charts[0]
    unit = unit_of(shown.metric)
    panel = Panel(
        title=f"{drawn.task}: {shown.metric}" + (f" ({unit})" if unit else ""),
        x=drawn.x,
        x_label=AXES[state.axis],
        lines=tuple(
            Drawn(line_label(line, runs), line.runs[0], line.y, line.low, line.high)
            for line in shown.lines
        ),
        log=state.log,
    )
    return _drawing(request, panel, kind, shown.metric)


@router.get("/shots.{kind}")
def shots(request: Request, kind: str) -> Response:
    """Answer with a drawing of a benchmark's score by number of demonstrations."""
    state = State.of(request.query_params)
    runs, _ = choose(store_of(request), state.run)
    made = shot_lines(pairs_of(request), runs, state.benchmark)
    if not made.lines:
        raise HTTPException(404, "no run was asked this benchmark with several numbers of shots")
    places = np.log2(1.0 + np.array(made.x))
    panel = Panel(
        title=f"{state.benchmark}: score by demonstrations, 95% over questions",
        x=places,
        x_label="demonstrations",
        lines=tuple(
            Drawn(line_label(line, runs), line.runs[0], line.y, line.low, line.high, dots=True)
            for line in made.lines
        ),
        ticks=tuple((place, str(each)) for place, each in zip(places, made.x, strict=True)),
    )
    return _drawing(request, panel, kind, f"{state.benchmark}-shots")


def _report(request: Request) -> Report:
    state = State.of(request.query_params)
    try:
        return make_report(
            store_of(request),
            pairs_of(request),
            state.run,
            reference=state.ref,
            patience=FILE_PATIENCE,
        )
    except UserError as error:
        raise HTTPException(422, str(error)) from None


def _overlay(request: Request, points: int = POINTS) -> tuple[list[Chosen], Overlay]:
    state = State.of(request.query_params)
    store = store_of(request)
    runs, _ = choose(store, state.run)
    task = state.task or default_task(curve_tasks(runs))
    names = curve_names(store, runs, task)
    chosen = (
        names if state.metric in ((), (EVERY,)) else [one for one in state.metric if one in names]
    )
    drawn = overlay(
        store,
        runs,
        task,
        chosen,
        axis=state.axis,
        points=points,
        smooth=state.smooth,
        bands=state.bands,
    )
    return runs, drawn


def _drawing(request: Request, panel: Panel, kind: str, name: str) -> Response:
    scheme = request.query_params.get("scheme", "light")
    scheme = scheme if scheme in SCHEMES else "light"
    if kind == "svg":
        return _file(svg(panel, scheme), "image/svg+xml", f"{name}.svg", inline=True)
    if kind == "png":
        return _file(png(panel, scheme), "image/png", f"{name}.png", inline=True)
    raise HTTPException(404, "a drawing is .svg or .png")


def _file(data: str | bytes, kind: str, name: str, *, inline: bool = False) -> Response:
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-@") else "-" for c in name)
    shown = "inline" if inline else "attachment"
    headers = {"Content-Disposition": f'{shown}; filename="{safe}"'}
    body = data.encode("utf-8", "replace") if isinstance(data, str) else data
    return Response(body, media_type=kind, headers=headers)
