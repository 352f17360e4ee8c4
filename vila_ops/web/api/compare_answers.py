"""What the API of comparing answers with, made from what was compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from components.runtime.metric_rows import Numbers
from vila_ops.comparing.chosen import Chosen, Problem
from vila_ops.comparing.disagreements import Answer, Disagreement
from vila_ops.comparing.overlay import AXES, Line, Overlay, line_label
from vila_ops.comparing.report import Report
from vila_ops.comparing.shots import ShotLines
from vila_ops.metric_units import unit_of
from vila_ops.paired import LEVEL, POWER, Row
from vila_ops.samples import Samples
from vila_ops.web.api.compare_models import (
    AnswerOut,
    CompareOut,
    DisagreementOut,
    GroupOut,
    MetricOut,
    PairedOut,
    PartOut,
    ProblemOut,
    RunOut,
    SettingOut,
    TestOut,
)
from vila_ops.web.asked import image_path, question_of


def comparison(report: Report) -> CompareOut:
    """Return a comparison as JSON."""
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


def curves(
    made: Overlay, runs: Sequence[Chosen], problems: Sequence[Problem] = ()
) -> dict[str, Any]:
    """Return all charts of a task in columns over their axis: see CurvesOut."""
    return {
        "task": made.task,
        "axis": made.axis,
        "x_label": AXES[made.axis],
        "x": made.x,
        "charts": [
            {
                "metric": chart.metric,
                "unit": unit_of(chart.metric),
                "series": [_series(line, runs) for line in chart.lines],
            }
            for chart in made.charts
        ],
        "problems": _told([*problems, *made.problems]),
        "rows": made.rows,
    }


def chart(
    made: Overlay, runs: Sequence[Chosen], problems: Sequence[Problem] = ()
) -> dict[str, Any]:
    """Return the first chart as the page's script takes it: see OneChartOut."""
    shown = made.charts[0]
    return {
        "x": made.x,
        "x_label": made.axis,
        "unit": unit_of(shown.metric),
        "series": [_series(line, runs) for line in shown.lines],
        "problems": _told([*problems, *made.problems]),
    }


def shots(
    made: ShotLines, runs: Sequence[Chosen], problems: Sequence[Problem] = ()
) -> dict[str, Any]:
    """Return scores by number of demonstrations as a chart: see OneChartOut."""
    return {
        "x": made.x,
        "x_label": "shots",
        "unit": "score",
        "series": [_series(line, runs) for line in made.lines],
        "problems": _told([*problems, *made.problems]),
    }


def disagreement(row: Disagreement, runs: list[Chosen], samples: Samples) -> DisagreementOut:
    """Return a question on which `runs` disagree, with the answer of each."""
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


def problems_out(problems: Sequence[Problem]) -> list[ProblemOut]:
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


def _short(values: Numbers) -> npt.NDArray[np.float32]:
    """Return values in the seven digits that a chart needs; what is beyond them is none."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _told(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [asdict(one) for one in problems]


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
