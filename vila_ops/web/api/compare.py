"""Comparing as JSON: settings, metrics and tests; curves in columns; disagreements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.exceptions import HTTPException

from vila_core.errors import Damaged, NotFound, UserError, VilaError
from vila_core.eval.curve import Curve
from vila_core.store import Store
from vila_ops.comparing.chosen import Chosen, Problem, choose
from vila_ops.comparing.disagreements import (
    PAGE_ROWS,
    Answer,
    Disagreement,
    Who,
    find_disagreements,
    parse_key,
)
from vila_ops.comparing.overlay import AXES, Bands, Line, curve_tasks, overlay
from vila_ops.comparing.pairs import Pairs
from vila_ops.comparing.report import Report, make_report
from vila_ops.curves import Axis
from vila_ops.kept import Kept
from vila_ops.metric_rows import Numbers
from vila_ops.paired import LEVEL, POWER, Row
from vila_ops.samples import Sample, Samples, Shown
from vila_ops.web.api.compare_models import (
    AnswerOut,
    CompareOut,
    CurvesOut,
    DisagreementOut,
    DisagreementsOut,
    GroupOut,
    MetricOut,
    OneChartOut,
    PairedOut,
    PartOut,
    ProblemOut,
    RunOut,
    SettingOut,
    TestOut,
)
from vila_ops.web.api.problem import ERRORS

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


def store_of(request: Request) -> Store:
    """Return the dashboard's store."""
    return request.app.state.watch.store


def pairs_of(request: Request) -> Pairs:
    """Return the dashboard's statistics."""
    return request.app.state.pairs


def refused(error: VilaError, code: int = 404) -> HTTPException:
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
        raise refused(error, 422) from None
    return CompareOut(
        page=report.link,
        reference=report.runs[report.reference].name if report.runs else "",
        runs=[_run(one) for one in report.runs],
        problems=problems_out(report.problems),
        warnings=list(report.warnings),
        settings=[
            SettingOut(section=section.name, key=one.key, values=list(one.values))
            for section in report.settings
            for one in section.different
        ],
        metrics=[
            MetricOut(
                name=one.name,
                values=list(one.values),
                noise=_number(one.noise.difference()) if one.noise else None,
            )
            for one in report.metrics
        ],
        paired=_paired(report),
        seed_groups=[
            GroupOut(
                runs=[report.runs[place].name for place in group.members], seeds=list(group.seeds)
            )
            for group in report.groups
            if group.repeated
        ],
        level=LEVEL,
        power=POWER,
        corrected_for=report.tests,
    )


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
        return {
            "task": asked.task,
            "axis": axis,
            "x_label": AXES[axis],
            "x": made.x,
            "charts": [
                {
                    "metric": chart.metric,
                    "unit": unit_of(chart.metric),
                    "series": [_series(line, asked.runs) for line in chart.lines],
                }
                for chart in made.charts
            ],
            "problems": _told([*asked.problems, *made.problems]),
            "rows": made.rows,
        }

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
        return {
            "x": made.x,
            "x_label": axis,
            "unit": unit_of(metric),
            "series": [_series(line, asked.runs) for line in made.charts[0].lines],
            "problems": _told([*asked.problems, *made.problems]),
        }

    return asked.answer(("chart", metric, axis, points, bands), make)


@router.get("/shots", response_model=OneChartOut)
def shots(
    request: Request, run: Runs, benchmark: Annotated[str, Query(min_length=1, max_length=200)]
) -> Response:
    """Return the score by number of demonstrations, with 95% intervals over questions."""
    runs, problems = choose(store_of(request), run)
    found, more = shot_curves(pairs_of(request), runs, benchmark)
    x = sorted({point.shots for curve in found.values() for point in curve.points})
    lines = [shots_line(place, curve, x, runs) for place, curve in found.items()]
    return _sent(
        _packed(
            {
                "x": x,
                "x_label": "shots",
                "unit": "score",
                "series": [_series(line, runs) for line in lines],
                "problems": _told([*problems, *more]),
            }
        )
    )


def shots_line(place: int, curve: Curve, x: Sequence[int], runs: Sequence[Chosen]) -> Line:
    """Return a run's curve over numbers of shots, in points of 100."""
    at = {point.shots: point for point in curve.points}

    def column(part: str) -> Numbers:
        values = [getattr(at[each], part) if each in at else math.nan for each in x]
        return 100 * np.array(values)

    return Line(runs[place].letter, (place,), column("mean"), column("low"), column("high"))


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
        raise refused(error, 422) from None
    except NotFound as error:
        raise refused(error) from None
    samples: Samples = request.app.state.samples
    return DisagreementsOut(
        benchmark=benchmark,
        who=who,
        other=shown[1].name,
        count=found.count,
        of=found.of,
        page=found.page,
        pages=found.pages,
        rows=[_disagreement(row, shown, samples) for row in found.rows],
        problems=problems_out(problems),
    )


def in_order(runs: list[Chosen], ref: str = "", other: str = "") -> list[Chosen]:
    """Return the runs, the reference first and the one that is held against it second.

    Raises UserError for a name that is none of the runs, and fewer than two.
    """
    if len(runs) < 2:
        raise UserError("a second run is needed, to disagree with the first")
    first = _named(runs, ref) or runs[0]
    rest = [one for one in runs if one is not first]
    second = _named(rest, other) or rest[0]
    return [first, second, *(one for one in rest if one is not second)]


def _named(runs: list[Chosen], name: str) -> Chosen | None:
    if not name:
        return None
    for one in runs:
        if name in (one.name, one.letter):
            return one
    raise UserError(f"'{name}' is none of the runs: {', '.join(one.name for one in runs)}")


def shot_curves(
    pairs: Pairs, runs: list[Chosen], benchmark: str
) -> tuple[dict[int, Curve], list[Problem]]:
    """Return the in-context-learning curve of each run (by place), and what could not be read."""
    found: dict[int, Curve] = {}
    problems = []
    for place, one in enumerate(runs):
        try:
            curve = pairs.shots(one, benchmark)
        except (UserError, NotFound, Damaged) as error:
            problems.append(Problem(one.name, str(error)))
            continue
        if curve is not None:
            found[place] = curve
    return found, problems


def question_of(row: Disagreement, run: Chosen, samples: Samples) -> tuple[Sample | None, str]:
    """Return a question as it was asked, or why it can't be shown."""
    try:
        found = samples.of_record(run.view.run_id, row.task, row.record)
    except (UserError, NotFound, Damaged) as error:
        return None, str(error)
    note = "" if found.as_asked is not False else "It was asked in other words than these."
    return found, note


def image_path(image: Shown) -> str:
    """Return where a sample's image is shown."""
    return f"/samples/{image.artifact}/{quote(image.path)}"


def default_task(tasks: list[str]) -> str:
    """Return the task whose curves are shown first: the last one of the graph."""
    return tasks[-1] if tasks else ""


UNITS = {
    "loss": "nats per supervised token",
    "tokens_per_s": "tokens/s",
    "supervised_tokens_per_s": "tokens/s",
    "image_tokens_per_s": "tokens/s",
    "images_per_s": "images/s",
    "mfu": "share",
    "pack_fill": "share",
    "feature_hit_rate": "share",
    "memory_mib": "MiB",
}


def unit_of(metric: str) -> str:
    """Return the unit of a column of metrics; "" where it has none, or is not known."""
    if metric in UNITS:
        return UNITS[metric]
    return "s per step" if metric.endswith("_s") else ""


def problems_out(problems: list[Problem] | tuple[Problem, ...]) -> list[ProblemOut]:
    """Return problems as JSON."""
    return [ProblemOut(run=one.run, problem=one.problem) for one in problems]


def _run(one: Chosen) -> RunOut:
    view = one.view
    return RunOut(
        letter=one.letter,
        run=one.name,
        run_id=view.run_id,
        task=one.task,
        status=view.status,
        recipe=view.recipe,
        started_at=view.started_at,
        duration_s=view.duration_s,
        code_digest=view.code_digest,
    )


def _paired(report: Report) -> list[PairedOut]:
    found = []
    for place, (one, outcome) in enumerate(zip(report.runs, report.outcomes, strict=True)):
        if place == report.reference:
            continue
        paired = outcome.paired
        found.append(
            PairedOut(
                run=one.name,
                pending=outcome.pending,
                problem=outcome.problem,
                tests=[_test(row) for row in paired.rows] if paired else [],
                skipped=dict(paired.skipped) if paired else {},
            )
        )
    return found


def _test(row: Row) -> TestOut:
    return TestOut(
        name=row.name,
        questions=row.questions,
        units=row.units,
        first=_number(row.first),
        second=_number(row.second),
        difference=_number(row.difference),
        low=_number(row.low),
        high=_number(row.high),
        test=row.test,
        p=_number(row.p),
        p_holm=_number(row.p_holm),
        detectable=_number(row.detectable),
        left_out=row.left_out,
        other_prompts=row.other_prompts,
        noise=_number(row.noise),
        verdict=row.verdict,
    )


def _series(line: Line, runs: Sequence[Chosen]) -> dict[str, Any]:
    place = line.runs[0]
    found: dict[str, Any] = {
        "label": line_label(line, runs),
        "color": place % 8 + 1,
        "dash": place >= 8,
        "y": _short(line.y),
    }
    if line.low is not None and line.high is not None:
        found |= {"low": _short(line.low), "high": _short(line.high)}
    return found


def line_label(line: Line, runs: Sequence[Chosen]) -> str:
    """Return what a line is called in a legend."""
    if len(line.runs) == 1:
        return runs[line.runs[0]].short
    return f"{line.label}: mean of {len(line.runs)}"


def _short(values: Numbers) -> npt.NDArray[np.float32]:
    """Return values in the seven digits that a chart needs; what is beyond them is none."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _packed(value: dict[str, Any]) -> bytes:
    """Return JSON of arrays, what is not finite as null: built models would take a second."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _sent(data: bytes) -> Response:
    return Response(data, media_type="application/json")


def _told(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [asdict(one) for one in problems]


def _disagreement(row: Disagreement, runs: list[Chosen], samples: Samples) -> DisagreementOut:
    sample, note = question_of(row, runs[0], samples)
    return DisagreementOut(
        key=row.key,
        type=row.kind,
        references=list(row.references),
        question=[
            PartOut(text=part) if isinstance(part, str) else PartOut(image=image_path(part))
            for part in (sample.question if sample else ())
        ],
        demonstrations=len(sample.demos) if sample else 0,
        note=note,
        answers=[_answer(one, answer) for one, answer in zip(runs, row.answers, strict=True)],
    )


def _answer(one: Chosen, answer: Answer) -> AnswerOut:
    return AnswerOut(
        run=one.name,
        text=answer.text,
        score=_number(answer.score),
        finished=answer.finished,
        draws=answer.draws,
    )


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
