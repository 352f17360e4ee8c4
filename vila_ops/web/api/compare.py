"""Comparing as JSON: settings, metrics and tests; curves in columns; disagreements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.exceptions import HTTPException

from vila_core.errors import Damaged, NotFound, UserError, VilaError
from vila_ops.comparing.chosen import Problem, choose, in_order
from vila_ops.comparing.disagreements import PAGE_ROWS, Who, find_disagreements, parse_key
from vila_ops.comparing.overlay import Bands, curve_tasks, default_task, overlay
from vila_ops.comparing.report import make_report
from vila_ops.comparing.shots import shot_lines
from vila_ops.curves import Axis
from vila_ops.kept import Kept
from vila_ops.web.api import compare_answers as answers
from vila_ops.web.api.compare_models import CompareOut, CurvesOut, DisagreementsOut, OneChartOut
from vila_ops.web.api.problem import ERRORS
from vila_ops.web.loading import pairs_of, samples_of, store_of

MOST_METRICS = 100
NO_MORE = 40
GROWING = ("running", "waiting")
DRAWN_BYTES = 16 * 2**20
"""For app.state.drawn: answers with curves of tasks that ended."""

router = APIRouter(prefix="/api/v1/compare", responses=ERRORS, tags=["compare"])

Text = Annotated[str, Query(max_length=200)]
Runs = Annotated[
    list[Annotated[str, Query(min_length=1, max_length=200)]],
    Query(min_length=1, max_length=NO_MORE, description="Runs, or evaluations RUN:TASK."),
]


def _refused(error: VilaError, code: int = 404) -> HTTPException:
    """Return the answer for what can't be shown."""
    return HTTPException(code, str(error))


@router.get("")
def compare(
    request: Request,
    run: Runs,
    ref: Text = "",
    patience_s: Annotated[float, Query(ge=0, le=20)] = 0.25,
) -> CompareOut:
    """Compare runs against one of them: settings that differ, metrics, paired tests.

    Tests that are not computed yet are pending; `patience_s` is how long to wait for them.
    """
    try:
        report = make_report(
            store_of(request), pairs_of(request), run, reference=ref, patience=patience_s
        )
    except UserError as error:
        raise _refused(error, 422) from None
    return answers.comparison(report)


class _Asked:
    """The runs of a request for curves, and their task."""

    def __init__(self, request: Request, run: Runs, task: Text = "") -> None:
        self.store = store_of(request)
        self.runs, self.problems = choose(self.store, run)
        self.task = task or default_task(curve_tasks(self.runs))
        self._kept: Kept[bytes] = request.app.state.drawn

    def answer(self, what: Sequence[object], make: Callable[[], dict[str, Any]]) -> Response:
        """Answer with JSON; what was drawn of tasks that ended is kept, as it won't change."""
        tasks = [one.view.task(self.task) for one in self.runs]
        states = [(task.attempt, task.status, task.cached_from) if task else None for task in tasks]
        if self.problems or any(task and task.status in GROWING for task in tasks):
            return _sent(_packed(make()))
        name = (self.task, *what, tuple(one.name for one in self.runs), tuple(states))

        def fresh() -> tuple[bytes, int]:
            data = _packed(make())
            return data, len(data) + 500

        return _sent(self._kept.get(name, fresh))


Points = Annotated[int, Query(ge=16, le=2000)]
Smooth = Annotated[float, Query(ge=0, le=0.999)]


@router.get("/curves", response_model=CurvesOut)
def curves(
    asked: Annotated[_Asked, Depends()],
    metric: Annotated[
        list[Annotated[str, Query(min_length=1, max_length=200)]],
        Query(min_length=1, max_length=MOST_METRICS),
    ],
    axis: Axis = "step",
    points: Points = 400,
    smooth: Smooth = 0.0,
    bands: Bands = "off",
) -> Response:
    """Return curves of one task in columns over one axis, thinned to `points` places."""
    names = tuple(dict.fromkeys(metric))

    def make() -> dict[str, Any]:
        made = overlay(
            asked.store,
            asked.runs,
            asked.task,
            names,
            axis=axis,
            points=points,
            smooth=smooth,
            bands=bands,
        )
        return answers.curves(made, asked.runs, asked.problems)

    return asked.answer(("curves", names, axis, points, smooth, bands), make)


@router.get("/chart", response_model=OneChartOut)
def chart(
    asked: Annotated[_Asked, Depends()],
    metric: Annotated[str, Query(min_length=1, max_length=200)],
    axis: Axis = "step",
    points: Points = 400,
    bands: Bands = "off",
) -> Response:
    """Return one metric's curves, as the page's charts take them."""

    def make() -> dict[str, Any]:
        made = overlay(
            asked.store, asked.runs, asked.task, [metric], axis=axis, points=points, bands=bands
        )
        return answers.chart(made, asked.runs, asked.problems)

    return asked.answer(("chart", metric, axis, points, bands), make)


@router.get("/shots", response_model=OneChartOut)
def shots(
    request: Request, run: Runs, benchmark: Annotated[str, Query(min_length=1, max_length=200)]
) -> Response:
    """Return the score by number of demonstrations, with 95% intervals over questions."""
    runs, problems = choose(store_of(request), run)
    made = shot_lines(pairs_of(request), runs, benchmark)
    return _sent(_packed(answers.shots(made, runs, problems)))


@router.get("/disagreements")
def disagreements(
    request: Request,
    run: Runs,
    benchmark: Annotated[str, Query(min_length=1, max_length=200)],
    ref: Text = "",
    other: Text = "",
    who: Who = "either",
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
    rows: Annotated[int, Query(ge=1, le=100)] = PAGE_ROWS,
) -> DisagreementsOut:
    """Return questions on which a run and the reference disagree, with the answers of all runs.

    `benchmark` is `NAME@SHOTS`; `other` is the run that is held against the reference, by default
    the next one.
    """
    store = store_of(request)
    runs, problems = choose(store, run)
    try:
        order = in_order(runs, ref, other)
        evaluations = []
        shown = []
        for one in order:
            try:
                evaluations.append(pairs_of(request).evaluation(one))
                shown.append(one)
            except (UserError, NotFound, Damaged) as error:
                if one in order[:2]:
                    raise
                problems.append(Problem(one.name, str(error)))
        found = find_disagreements(
            store, evaluations, parse_key(benchmark), who=who, page=page, rows=rows
        )
    except (UserError, Damaged) as error:
        raise _refused(error, 422) from None
    except NotFound as error:
        raise _refused(error) from None
    samples = samples_of(request)
    return DisagreementsOut(
        benchmark=benchmark,
        who=who,
        other=shown[1].name,
        count=found.count,
        of=found.of,
        page=found.page,
        pages=found.pages,
        rows=[answers.disagreement(row, shown, samples) for row in found.rows],
        problems=answers.problems_out(problems),
    )


def _packed(value: dict[str, Any]) -> bytes:
    """Return JSON of arrays, what is not finite as null: built models would take a second."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _sent(data: bytes) -> Response:
    return Response(data, media_type="application/json")
