"""What the API of comparing answers with."""

from __future__ import annotations

from pydantic import BaseModel

from vila_ops.curves import Axis


class ProblemOut(BaseModel):
    """A run that is left out, and why."""

    run: str
    problem: str


class RunOut(BaseModel):
    """A run under comparison."""

    letter: str
    run: str
    run_id: str
    task: str
    status: str
    recipe: str
    started_at: str
    duration_s: float | None
    code_digest: str


class SettingOut(BaseModel):
    """A setting that differs; one value per run, null where a run has none."""

    section: str
    key: str
    values: list[str | None]


class TestOut(BaseModel):
    """One benchmark against the reference; see `vila compare --paired --json`."""

    name: str
    questions: int
    units: int
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    test: str
    p: float | None
    p_holm: float | None
    detectable: float | None
    left_out: int
    other_prompts: int
    noise: float | None
    verdict: str


class PairedOut(BaseModel):
    """A run against the reference. While `pending`, ask again."""

    run: str
    pending: bool
    problem: str
    tests: list[TestOut]
    skipped: dict[str, str]


class MetricOut(BaseModel):
    """A metric; one value per run. `noise` is how far two runs lie apart by their seeds alone."""

    name: str
    values: list[float | None]
    noise: float | None


class GroupOut(BaseModel):
    """Runs that differ in nothing but `seeds`."""

    runs: list[str]
    seeds: list[str]


class CompareOut(BaseModel):
    """Runs against a reference."""

    page: str
    reference: str
    runs: list[RunOut]
    problems: list[ProblemOut]
    warnings: list[str]
    settings: list[SettingOut]
    metrics: list[MetricOut]
    paired: list[PairedOut]
    seed_groups: list[GroupOut]
    level: float
    power: float
    corrected_for: int


class SeriesOut(BaseModel):
    """A line of a chart, in columns as long as `x`; null where there is no value."""

    label: str
    color: int
    dash: bool
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None


class ChartOut(BaseModel):
    """A chart by columns."""

    metric: str
    unit: str
    series: list[SeriesOut]


class CurvesOut(BaseModel):
    """Charts over one axis."""

    task: str
    axis: Axis
    x_label: str
    x: list[float | None]
    charts: list[ChartOut]
    problems: list[ProblemOut]
    rows: int


class OneChartOut(BaseModel):
    """One chart, as the page's charts take it."""

    x: list[float | None]
    x_label: str
    unit: str
    series: list[SeriesOut]
    problems: list[ProblemOut]


class PartOut(BaseModel):
    """A piece of a question: text, or where an image is shown."""

    text: str | None = None
    image: str | None = None


class AnswerOut(BaseModel):
    """What a run answered; no text where it was not asked."""

    run: str
    text: str | None
    score: float | None
    finished: bool
    draws: int


class DisagreementOut(BaseModel):
    """A question with all answers. Where `question` can't be shown, `note` says why."""

    key: str
    type: str
    references: list[str]
    question: list[PartOut]
    demonstrations: int
    note: str
    answers: list[AnswerOut]


class DisagreementsOut(BaseModel):
    """A page of disagreements between the first run and another."""

    benchmark: str
    who: str
    other: str
    count: int
    of: int
    page: int
    pages: int
    rows: list[DisagreementOut]
    problems: list[ProblemOut]
