"""The grid of a plan as one graph: arms x seeds, in which what is the same is one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.assembled import Node
from vila_core.config import merge as merge_values
from vila_core.jsonio import digest
from vila_ops.recipes import stage_config
from vila_ops.reproduce.config import BASE, STAGES, Arm, Plan

SEEDED: Mapping[str, tuple[str, ...]] = {
    "language_model": ("miniature.seed", "train.seed"),
    "align": ("model.seed", "train.seed"),
    "pretrain": ("train.seed",),
    "sft": ("train.seed",),
}
"""What a seed changes. Data, evaluation items and vision tower are the same for all seeds."""
_WHOLE = ("mixture", "max_epochs", "templates")
_CONTROL = "control"
_OWN_FILES = ("benchmark", "text_benchmark")
"""Components that read official files, not the prepared data."""


@dataclass(frozen=True)
class Cell:
    """One measured model: an arm (of a finding, or of the controls), a seed, the end of a stage."""

    owner: str  # finding, or "control"
    arm: str
    seed: int
    after: str


@dataclass
class Grid:
    """Nodes with their configs, and which of them measures which cell."""

    nodes: list[Node] = field(default_factory=list)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    measured: dict[Cell, dict[str, str]] = field(default_factory=dict)  # evaluation -> node
    trained: dict[Cell, str] = field(default_factory=dict)  # node that made the model


def build_grid(plan: Plan) -> Grid:
    """Return the grid of everything that the findings' tables, effects and plots ask for."""
    builder = _Builder(plan)
    for seed in plan.seed_numbers:  # seed by seed: the first ones are complete early
        for owner, name, arm, after, evaluation in wanted(plan):
            builder.measure(Cell(owner, name, seed, after), arm, evaluation)
    return builder.grid


def wanted(plan: Plan) -> Iterator[tuple[str, str, Arm, str, str]]:
    """Yield owner, arm's name, arm, stage and evaluation of what has to be measured, once each."""
    seen: set[tuple[str, str, str, str]] = set()
    for owner, name, arm, after, evaluations in _asked(plan):
        for evaluation in evaluations:
            one = (owner, name, after, evaluation)
            if one not in seen:
                seen.add(one)
                yield owner, name, arm, after, evaluation


def arm_of(plan: Plan, owner: str, name: str) -> Arm:
    """Return an arm with what the size changes of it."""
    arm = plan.findings[owner].arms[name]
    more = plan.size.arms.get(owner, {}).get(name, {})
    return Arm.model_validate(merge(arm.model_dump(), more)) if more else arm


def merge(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` overridden by `more`, key by key; mixtures and the like as a whole."""
    return merge_values(values, more, whole=_WHOLE)


def _asked(plan: Plan) -> Iterator[tuple[str, str, Arm, str, tuple[str, ...]]]:
    measures = plan.measures
    base = Arm.model_validate({"title": "base"})
    first = next(iter(plan.findings))
    if measures.gate:
        yield first, BASE, base, BASE, measures.measures[measures.gate.measure].evaluations
    for owner, finding in plan.findings.items():
        arms = {name: arm_of(plan, owner, name) for name in finding.arms}
        for effect in finding.effects:
            for name in (effect.arm, effect.minus):
                found = measures.measures[effect.measure].evaluations
                yield owner, name, arms[name], effect.after, found
        for column in finding.table:
            for name, arm in arms.items():
                if column.after not in arm.skip:
                    found = measures.measures[column.measure].evaluations
                    yield owner, name, arm, column.after, found
        for plot in finding.plots:
            for name in plot.arms or arms:
                if plot.after in arms[name].skip:
                    continue
                yield owner, name, arms[name], plot.after, measures.curves[plot.curve].evaluations
    if plan.controls:
        controls = plan.controls
        arms = {name: control.arm for name, control in controls.controls.items()}
        for name, arm in {"reference": controls.reference, **arms}.items():
            for column in controls.columns:
                found = measures.measures[column.measure].evaluations
                yield _CONTROL, name, arm, column.after, found


class _Builder:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[str, str] = {}  # digest of what a node computes -> its name
        self.grid = Grid()

    def measure(self, cell: Cell, arm: Arm, evaluation: str) -> None:
        """Add what it takes to evaluate a cell."""
        plan = self._plan
        model = self._model(cell, arm, cell.after)
        spec = plan.measures.evaluations[evaluation]
        config = dict(spec.after[cell.after])  # type: ignore[index]
        if spec.component == "evaluate":
            config = merge(plan.size.evaluate, config)
        source = model.replace("language-model", BASE)
        label = "evaluate" if spec.component == "evaluate" else evaluation
        inputs = {"model": (model, "model")}
        if spec.component not in _OWN_FILES:
            inputs["data"] = (self._data("default"), "data")
        node = self._add(f"{label}-{source}", spec.component, config, inputs)
        self.grid.measured.setdefault(cell, {})[evaluation] = node
        self.grid.trained[cell] = model

    def _model(self, cell: Cell, arm: Arm, after: str) -> str:
        """Return the node that makes the model at the end of a stage."""
        size, seed = self._plan.size, cell.seed
        if after == BASE:
            config = _seeded("language_model", size.language_model, seed)
            return self._add(f"language-model-s{seed}", "language_model", config, {})
        config = _seeded(after, merge(getattr(size, after), getattr(arm, after)), seed)
        if after == "align":
            tower = self._add("vision-tower", "vision_tower", dict(size.vision_tower), {})
            inputs = {
                "data": (self._data("default"), "data"),
                "vision_tower": (tower, "model"),
                "language_model": (self._model(cell, arm, BASE), "model"),
            }
        else:
            before = STAGES[STAGES.index(after) - 1]
            if before in arm.skip:
                before = STAGES[STAGES.index(before) - 1]
            data = arm.data if after == "pretrain" else "default"
            inputs = {
                "data": (self._data(data), "data"),
                "base": (self._model(cell, arm, before), "model"),
            }
        plain = after == "align" and not arm.align
        name = f"{after}-s{seed}" if plain else f"{after}-{cell.arm}-s{seed}"
        return self._add(name, after, config, inputs)

    def _data(self, variant: str) -> str:
        size = self._plan.size
        if variant == "default":
            return self._add("prepare", "prepare", dict(size.prepare), {})
        config = merge(size.prepare, size.variants[variant])
        return self._add(f"prepare-{variant.replace('_', '-')}", "prepare", config, {})

    def _add(
        self, name: str, component: str, config: dict[str, Any], inputs: dict[str, tuple[str, str]]
    ) -> str:
        """Return the node that computes this: an earlier one, or a new one of that name."""
        same = digest([component, config, {key: list(value) for key, value in inputs.items()}])
        if same not in self._known:
            taken, free, number = self.grid.configs, name, 2
            while free in taken:
                free, number = f"{name}-{number}", number + 1
            self._known[same] = free
            self.grid.nodes.append(Node(free, component, inputs))
            self.grid.configs[free] = config
        return self._known[same]


def _seeded(stage: str, config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    result = dict(config)
    if result.get("source", "miniature") != "miniature":
        return result  # a pre-trained model is the same for all seeds
    default = stage_config(stage)().model_dump(mode="json")
    for place in SEEDED[stage]:
        section, key = place.split(".")
        given = result.get(section, {} if section != "train" else default["train"])
        # A training is set as a whole, as in a recipe; of the rest, an arm sets single keys.
        whole = given if section == "train" else merge(default[section], given)
        result[section] = {**whole, key: seed}
    return result
