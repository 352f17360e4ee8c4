"""From the metrics of a run's tasks to tables over seeds, effects with intervals, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vila_core.errors import VilaError
from vila_core.eval.stats import seed_interval
from vila_ops.reproduce.config import BASE, Column, Control, Effect, Measure, Plan
from vila_ops.reproduce.grid import Cell, Grid

Verdict = Literal["reproduced", "opposite", "not resolved"]
CONTROL, REFERENCE = "control", "reference"


@dataclass(frozen=True)
class Spread:
    """A number over seeds: one value per seed; `low` and `high` bound the mean."""

    values: tuple[float, ...]
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], level: float) -> Spread:
        """Return the values with their t interval over seeds."""
        found = seed_interval(values, level=level)
        return cls(tuple(values), found["mean"], found["low"], found["high"])

    @property
    def std(self) -> float:
        """The sample standard deviation over seeds."""
        total = math.fsum((value - self.mean) ** 2 for value in self.values)
        return math.sqrt(total / (len(self.values) - 1))


@dataclass(frozen=True)
class Judged:
    """An effect with what was found."""

    effect: Effect
    smallest: float
    spread: Spread
    verdict: Verdict


@dataclass(frozen=True)
class Checked:
    """A control with what was found: its measure, minus the reference's."""

    name: str
    control: Control
    row: tuple[Spread, ...]  # one per column
    drop: Spread
    falls: bool


@dataclass(frozen=True)
class Gate:
    """The base model's gate: its value per seed, and the seeds that miss it."""

    title: str
    at_least: float
    values: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def missed(self) -> tuple[int, ...]:
        """The seeds whose base model is below the gate."""
        pairs = zip(self.seeds, self.values, strict=True)
        return tuple(seed for seed, value in pairs if value < self.at_least)


class Results:
    """What the tasks of a run measured. Raises VilaError for a metric that a task did not give."""

    def __init__(self, plan: Plan, grid: Grid, metrics: Mapping[str, Mapping[str, float]]) -> None:
        self.plan = plan
        self._grid = grid
        self._metrics = metrics

    def measured(self, owner: str, arm: str, after: str) -> bool:
        """Tell whether the grid measures an arm at the end of a stage."""
        return Cell(owner, arm, self.plan.first_seed, after) in self._grid.measured

    def spread(self, owner: str, arm: str, measure: str, after: str) -> Spread:
        """Return a measure of an arm over the seeds."""
        return Spread.of(self.values(owner, arm, measure, after), self.plan.level)

    def values(self, owner: str, arm: str, measure: str, after: str) -> list[float]:
        """Return a measure of an arm for each seed."""
        spec = self.plan.measures.measures[measure]
        return [self._value(Cell(owner, arm, seed, after), spec) for seed in self.plan.seed_numbers]

    def curve(self, owner: str, arm: str, curve: str, after: str) -> dict[str, list[float]]:
        """Return the values per seed at each point of a curve's axis."""
        spec = self.plan.measures.curves[curve]
        return {
            point: [
                self._metric(Cell(owner, arm, seed, after), spec.evaluations, key)
                for seed in self.plan.seed_numbers
            ]
            for point, key in spec.points.items()
        }

    def row(self, owner: str, arm: str, columns: Sequence[Column]) -> tuple[Spread | None, ...]:
        """Return a table's row; None where the arm is not measured."""
        return tuple(
            self.spread(owner, arm, column.measure, column.after)
            if self.measured(owner, arm, column.after)
            else None
            for column in columns
        )

    def judged(self, owner: str) -> list[Judged]:
        """Return the effects of a finding with their verdicts."""
        return [self._judge(owner, effect) for effect in self.plan.findings[owner].effects]

    def verdict(self, owner: str) -> Verdict:
        """Return a finding's verdict, from its headline effects."""
        found = [one.verdict for one in self.judged(owner) if one.effect.headline]
        if "opposite" in found:
            return "opposite"
        return "reproduced" if all(one == "reproduced" for one in found) else "not resolved"

    def gate(self) -> Gate | None:
        """Return how the base models did at the gate."""
        gate = self.plan.measures.gate
        if gate is None:
            return None
        owner = next(iter(self.plan.findings))
        values = self.values(owner, BASE, gate.measure, BASE)
        title = self.plan.measures.measures[gate.measure].title
        return Gate(title, gate.at_least, tuple(values), tuple(self.plan.seed_numbers))

    def controls(self) -> list[Checked]:
        """Return the controls beside every headline."""
        controls = self.plan.controls
        if controls is None:
            return []
        found = []
        for name, control in controls.controls.items():
            row = [
                self.spread(CONTROL, name, column.measure, column.after)
                for column in controls.columns
            ]
            drop = self._difference(CONTROL, name, REFERENCE, control.measure, controls.after)
            falls = drop.high < 0 and drop.mean <= -controls.smallest
            found.append(Checked(name, control, tuple(row), drop, falls))
        return found

    def _judge(self, owner: str, effect: Effect) -> Judged:
        spread = self._difference(owner, effect.arm, effect.minus, effect.measure, effect.after)
        smallest = effect.smallest.get(self.plan.size_name) or effect.smallest["default"]
        return Judged(effect, smallest, spread, judge(spread, effect.paper, smallest))

    def _difference(self, owner: str, arm: str, minus: str, measure: str, after: str) -> Spread:
        pairs = zip(
            self.values(owner, arm, measure, after),
            self.values(owner, minus, measure, after),
            strict=True,
        )
        return Spread.of([one - other for one, other in pairs], self.plan.level)

    def _value(self, cell: Cell, spec: Measure) -> float:
        def mean(keys: Sequence[str]) -> float:
            return math.fsum(self._metric(cell, spec.evaluations, key) for key in keys) / len(keys)

        return mean(spec.metrics) - (mean(spec.minus) if spec.minus else 0.0)

    def _metric(self, cell: Cell, evaluations: Sequence[str], key: str) -> float:
        for evaluation in evaluations:
            found = self._metrics[self._grid.measured[cell][evaluation]]
            if key in found:
                return found[key]
        asked = ", ".join(self._grid.measured[cell].values())
        raise VilaError(
            f"{asked}: gave no '{key}'; see its metrics with 'vila show', and the measures in "
            "configs/ablations/shared."
        )


def judge(spread: Spread, paper: str, smallest: float) -> Verdict:
    """Return the verdict on an effect; `rule` says it in words."""
    if paper == "same":
        if -smallest <= spread.low and spread.high <= smallest:
            return "reproduced"
        outside = spread.low > smallest or spread.high < -smallest
        return "opposite" if outside else "not resolved"
    sign = 1 if paper == "above" else -1
    near, far = sorted((sign * spread.low, sign * spread.high))
    if near > 0 and sign * spread.mean >= smallest:
        return "reproduced"
    return "opposite" if far < 0 else "not resolved"


def rule(level: float) -> str:
    """Return the rule of the verdicts in words."""
    return (
        f"The interval is Student's t over the seeds' differences, at {level:.0%}. An effect is "
        "*reproduced* if the whole interval lies on the paper's side of 0 and the mean is at least "
        "the smallest effect of interest; *opposite* if the whole interval lies on the other side "
        "of 0; else *not resolved*. Where the paper reports no difference, it is *reproduced* if "
        "the whole interval is closer to 0 than the smallest effect of interest, *opposite* if the "
        "whole interval is farther away. A finding is reproduced if all its headline effects are, "
        "opposite if any of them is."
    )
