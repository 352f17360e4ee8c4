"""Ablations as data: findings with their arms and effects, sizes, measures and controls.

configs/ablations/<finding>.yaml           the paper's claim and table, arms, effects
configs/ablations/shared/controls.yaml     what is measured beside every headline
configs/ablations/shared/<measures>.yaml   what is evaluated, and what is computed from it
configs/ablations/sizes/<size>.yaml        a recipe's sections, and variants of its data
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vila_core.config import Frozen, apply_overrides, read_yaml, validate
from vila_core.errors import UserError
from vila_ops.named import config_files, find_file

STAGES = ("align", "pretrain", "sft")
BASE = "base"
"""The language model before it has seen an image."""
After = Literal["base", "align", "pretrain", "sft"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]


class Arm(Frozen):
    """One way of training: what differs from the size's sections. A mixture is replaced whole."""

    title: str
    data: str = Field("default", description="variant of `prepare` that pretrain learns from")
    skip: tuple[Literal["pretrain", "sft"], ...] = Field(
        (), description="stages that are left out, with what tables and plots show at their end"
    )
    align: dict[str, Any] = Field(default_factory=dict)
    pretrain: dict[str, Any] = Field(default_factory=dict)
    sft: dict[str, Any] = Field(default_factory=dict)


class Column(Frozen):
    """A column of a table: a measure at the end of a stage."""

    title: str
    measure: str
    after: After


class Effect(Frozen):
    """A difference between two arms, and what the paper says of it. All of it is set before a run.

    `smallest` is the smallest effect of interest, by size, in the measure's unit.
    """

    title: str
    measure: str
    after: After
    arm: str
    minus: str
    paper: Literal["above", "below", "same"] = Field(description="of the difference, to 0")
    smallest: Mapping[str, Annotated[float, Field(gt=0)]]
    headline: bool = Field(True, description="whether the finding's verdict hangs on it")
    because: str = Field("", description="in the report, beside the effect")


class PaperRow(Frozen):
    """A row of the paper's table; `arm` is ours that belongs to it, if there is one."""

    title: str
    values: tuple[float | str | None, ...]
    arm: str | None = None


class Paper(Frozen):
    """The paper's own numbers."""

    source: str
    setting: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    @model_validator(mode="after")
    def _full(self) -> Paper:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"the row '{row.title}' has not one value per column")
        return self


class Plot(Frozen):
    """A curve per arm, at the end of a stage."""

    curve: str
    after: After
    arms: tuple[str, ...] = Field((), description="default: all")


class Finding(Frozen):
    """One finding of the paper as an ablation."""

    title: str
    claim: str
    toy: str = Field("", description="what stands for what at miniature size")
    paper: Paper
    arms: Mapping[Name, Arm]
    table: tuple[Column, ...]
    effects: tuple[Effect, ...] = Field(min_length=1)
    plots: tuple[Plot, ...] = ()

    @model_validator(mode="after")
    def _arms_are_known(self) -> Finding:
        used = [arm for effect in self.effects for arm in (effect.arm, effect.minus)]
        used += [row.arm for row in self.paper.rows if row.arm]
        used += [arm for plot in self.plots for arm in plot.arms]
        for arm in used:
            if arm not in self.arms:
                raise ValueError(f"there is no arm '{arm}'; arms: {', '.join(self.arms)}")
        return self


class Control(Frozen):
    """A world in which the documents lack something: what do the findings hang on?"""

    question: str
    arm: Arm
    measure: str = Field(description="that falls if the documents' part is what it came from")
    means: str = Field(description="what it means when that measure falls")
    otherwise: str = Field(description="what it means when it does not")


class Controls(Frozen):
    """Controls beside every headline, each compared with `reference`."""

    reference: Arm
    after: After
    columns: tuple[Column, ...]
    smallest: float = Field(gt=0)
    controls: Mapping[Name, Control]


class Evaluation(Frozen):
    """One evaluation task: its component, and its config by the stage whose end it measures."""

    component: str = "evaluate"
    after: Mapping[After, dict[str, Any]]


class Measure(Frozen):
    """A number of one model: the mean of some metrics, perhaps minus the mean of others."""

    title: str
    evaluations: tuple[str, ...] = Field(min_length=1)
    metrics: tuple[str, ...] = Field(min_length=1)
    minus: tuple[str, ...] = ()
    percent: bool = Field(True, description="a share, shown as a percentage")


class Curve(Frozen):
    """Metrics of one model along an axis."""

    title: str
    evaluations: tuple[str, ...] = Field(min_length=1)
    axis: str
    points: Mapping[str, str] = Field(description="metric by its place on the axis")
    percent: bool = True


class Gate(Frozen):
    """What the base model must show for an ablation to mean anything."""

    measure: str
    at_least: float
    why: str


class Measures(Frozen):
    """What is evaluated, and what is computed from it."""

    evaluations: Mapping[Name, Evaluation]
    measures: Mapping[Name, Measure]
    curves: Mapping[Name, Curve] = Field(default_factory=dict)
    gate: Gate | None = None
    without: tuple[str, ...] = Field(
        (), description="measures and curves of findings that have no meaning here: left out"
    )


class Size(Frozen):
    """A recipe's sections at one size, and what a finding's arms change at that size."""

    about: str = ""
    tuned_on: tuple[int, ...] = Field(
        (), description="seeds whose results were looked at when the values were chosen"
    )
    measures: str = Field("miniature", description="file of configs/ablations/shared")
    world: str = Field("toy world", description="how the report calls what was trained in")
    prepare: dict[str, Any] = Field(default_factory=dict)
    vision_tower: dict[str, Any] = Field(default_factory=dict)
    language_model: dict[str, Any] = Field(default_factory=dict)
    align: dict[str, Any] = Field(default_factory=dict)
    pretrain: dict[str, Any] = Field(default_factory=dict)
    sft: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(
        default_factory=dict, description="for every evaluation by the component `evaluate`"
    )
    variants: Mapping[str, dict[str, Any]] = Field(
        default_factory=dict, description="other preparations, as overrides of `prepare`"
    )
    arms: Mapping[Name, Mapping[Name, dict[str, Any]]] = Field(
        default_factory=dict, description="by finding and arm: overrides at this size"
    )


class Plan(Frozen):
    """Everything that a run of `vila reproduce` was asked for; kept with the run."""

    names: tuple[str, ...] = Field(description="findings as they were asked for: names or paths")
    size_asked: str
    size_name: str
    seeds: int = Field(ge=2, description="how many; an interval needs two")
    first_seed: int = Field(0, ge=0)
    level: float = Field(0.95, gt=0, lt=1, description="of the interval over seeds")
    overrides: tuple[str, ...] = ()
    size: Size
    measures: Measures
    findings: Mapping[str, Finding]
    controls: Controls | None

    @property
    def seed_numbers(self) -> range:
        """The seeds that are trained."""
        return range(self.first_seed, self.first_seed + self.seeds)


def load_plan(
    names: Sequence[str],
    size: str,
    seeds: int,
    overrides: Sequence[str] = (),
    *,
    first_seed: int = 0,
    level: float = 0.95,
) -> Plan:
    """Load findings by name or path, and a size by name or path with `a.b=c` overrides.

    Raises UserError for what is unknown, and for arms or measures that name what isn't there.
    """
    if seeds < 2:
        raise UserError(f"--seeds {seeds}: an interval over seeds needs two or more, better three.")
    if first_seed < 0:
        raise UserError(f"--first-seed {first_seed}: seeds are 0 and above.")
    findings: dict[str, Finding] = {}
    places: dict[str, str] = {}
    for name in dict.fromkeys(names):
        path = find_file(name, finding_files(), "finding")
        findings[path.stem] = validate(Finding, read_yaml(path), where=str(path))
        places[path.stem] = str(path)
    path = find_file(size, size_files(), "size")
    values = read_yaml(path)
    chosen = validate(Size, values, where=str(path))
    if overrides:
        chosen = validate(Size, apply_overrides(values, overrides), where="--set")
    shared = Path(str(importlib.resources.files("configs"))) / "ablations" / "shared"
    measured = shared / f"{chosen.measures}.yaml"
    measures = validate(Measures, read_yaml(measured), where=str(measured))
    controls = None
    if "no_series" in chosen.variants:
        place = shared / "controls.yaml"
        controls = validate(Controls, read_yaml(place), where=str(place))
    plan = Plan(
        names=tuple(dict.fromkeys(names)),
        size_asked=size,
        size_name=path.stem,
        seeds=seeds,
        first_seed=first_seed,
        level=level,
        overrides=tuple(overrides),
        size=chosen,
        measures=measures,
        findings={
            name: _meant(one, measures.without, places[name]) for name, one in findings.items()
        },
        controls=controls,
    )
    for name, finding in plan.findings.items():
        _check(plan, finding, places[name])
    return plan


def finding_files() -> dict[str, Path]:
    """Return the findings that come with the package, by name."""
    return config_files("ablations")


def size_files() -> dict[str, Path]:
    """Return the sizes that come with the package, by name."""
    return config_files("ablations/sizes")


def _meant(finding: Finding, without: Sequence[str], where: str) -> Finding:
    """Leave out what the size can't measure. Raises UserError where no headline is left."""
    kept = finding.model_copy(
        update={
            "table": tuple(one for one in finding.table if one.measure not in without),
            "effects": tuple(one for one in finding.effects if one.measure not in without),
            "plots": tuple(one for one in finding.plots if one.curve not in without),
        }
    )
    if not any(effect.headline for effect in kept.effects):
        raise UserError(f"{where}: its headline effects can't be measured at this size.")
    return kept


def _check(plan: Plan, finding: Finding, where: str) -> None:
    """Raise UserError for a measure, evaluation or variant that nothing defines."""
    measures = plan.measures
    for measure, after in _asked(plan, finding):
        if measure not in measures.measures:
            known = ", ".join(measures.measures)
            raise UserError(f"{where}: there is no measure '{measure}'; known: {known}.")
        spec = measures.measures[measure]
        wanted = (*spec.metrics, *spec.minus)
        _check_measured(measures, measure, spec.evaluations, wanted, after, where)
    for plot in finding.plots:
        if plot.curve not in measures.curves:
            raise UserError(f"{where}: there is no curve '{plot.curve}'.")
        curve = measures.curves[plot.curve]
        wanted = tuple(curve.points.values())
        _check_measured(measures, plot.curve, curve.evaluations, wanted, plot.after, where)
    for effect in finding.effects:
        if plan.size_name not in effect.smallest and "default" not in effect.smallest:
            raise UserError(
                f"{where}: effect '{effect.title}': `smallest` says nothing for the size "
                f"'{plan.size_name}'; add it, or a default."
            )
    for name, arm in finding.arms.items():
        if arm.data != "default" and arm.data not in plan.size.variants:
            raise UserError(
                f"{where}: arms.{name}: the size '{plan.size_name}' has no variant '{arm.data}' of "
                "its data; add it to `variants`."
            )


def _asked(plan: Plan, finding: Finding) -> Iterator[tuple[str, After]]:
    for item in (*finding.table, *finding.effects):
        yield item.measure, item.after
    if plan.measures.gate:
        yield plan.measures.gate.measure, "base"
    if plan.controls:
        for column in plan.controls.columns:
            yield column.measure, column.after
        for control in plan.controls.controls.values():
            yield control.measure, plan.controls.after


def _check_measured(
    measures: Measures,
    what: str,
    evaluations: Sequence[str],
    metrics: Sequence[str],
    after: After,
    where: str,
) -> None:
    """Raise UserError unless the evaluations at the end of a stage ask for all metrics."""
    asked: set[str] = set()
    for name in evaluations:
        if name not in measures.evaluations:
            raise UserError(
                f"{where}: '{what}' needs the evaluation '{name}', which isn't defined."
            )
        evaluation = measures.evaluations[name]
        config = evaluation.after.get(after)
        if config is not None:
            # Only the stage itself knows the metrics of another component.
            own = evaluation.component != "evaluate"
            asked |= {key.split("/")[0] for key in metrics} if own else set(config.get("tasks", ()))
    for metric in metrics:
        if metric.split("/")[0].split(".")[0] not in asked:
            raise UserError(
                f"{where}: '{what}' is not measured after {after}: no evaluation there gives "
                f"'{metric}'."
            )
