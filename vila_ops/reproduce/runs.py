"""Runs of `vila reproduce`: started from a plan that stays with them, reported from the record."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.runtime.record import RunRecord
from vila_core.config import validate
from vila_core.errors import NotFound, UserError
from vila_core.store import Store
from vila_ops.assemble import assemble
from vila_ops.recipes import Recipe
from vila_ops.reproduce.config import Plan
from vila_ops.reproduce.grid import Grid, build_grid
from vila_ops.reproduce.results import Results
from vila_ops.runs import create_run

TRACKING = {"wandb": "disabled"}  # a W&B run for each of a hundred small tasks helps nobody


@dataclass(frozen=True)
class Reproduction:
    """A run that has come to its end: what was asked for, and what was measured."""

    run_id: str
    plan: Plan
    grid: Grid
    record: RunRecord
    results: Results


def recipe_of(plan: Plan, grid: Grid) -> Recipe:
    """Return the grid as one pipeline. Raises UserError for a config that a stage does not take."""
    where = f"size {plan.size_name}"
    name = f"reproduce-{'-'.join(plan.findings)}"
    return assemble(name, grid.nodes, grid.configs, where=where, tracking=TRACKING)


def begin(store: Store, plan: Plan, *, runner: str, name: str | None, argv: Sequence[str]) -> str:
    """Write the record of a new run, the plan with it, and return its id."""
    recipe = recipe_of(plan, build_grid(plan))
    run_id = create_run(store, recipe, runner=runner, name=name or _short(plan), argv=argv)
    # Not canonical JSON, which sorts keys: findings, arms and rows have an order.
    text = json.dumps(plan.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    store.write(_place(run_id), text.encode(), create_only=True)
    return run_id


def plan_of(store: Store, run_id: str) -> Plan:
    """Return the plan that a run was started from. Raises UserError for a run that has none."""
    try:
        values: dict[str, Any] = json.loads(store.read(_place(run_id)))
    except NotFound:
        raise UserError(f"run {run_id} was not started by vila reproduce.") from None
    return validate(Plan, values, where=f"{run_id}: reproduce.json")


def load(store: Store, run_id: str) -> Reproduction:
    """Read a run. Raises UserError for one that has not succeeded, or is no reproduction."""
    plan = plan_of(store, run_id)
    record = RunRecord.load(store, run_id)
    if record.status != "succeeded":
        raise UserError(
            f"run {run_id} is {record.status}: there is nothing to report yet.\n"
            f"  fix: vila reproduce --run {run_id}"
        )
    grid = build_grid(plan)
    metrics = {
        name: (attempts[-1].finished or {}).get("metrics") or {}
        for name, attempts in record.tasks.items()
        if attempts
    }
    return Reproduction(run_id, plan, grid, record, Results(plan, grid, metrics))


def _short(plan: Plan) -> str:
    """Return the name of a run, of what its files are called."""
    name = f"reproduce-{'-'.join(plan.findings)}-{plan.size_name}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:61]


def _place(run_id: str) -> str:
    return f"runs/{run_id}/reproduce.json"
