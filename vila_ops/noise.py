"""Runs that differ in nothing but their seeds, into the ledger of seed noise; and out of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.registry.noise import Measured, NoiseLedger, Spread, seeds_of, without_seeds
from vila_core.errors import UserError
from vila_core.jsonio import digest, dumps
from vila_core.store import Store
from vila_ops.compare import flatten
from vila_ops.runs import find_run, load_view
from vila_ops.view import RunView

if TYPE_CHECKING:
    from vila_ops.reproduce.grid import Grid


@dataclass(frozen=True)
class Added:
    """What came into the ledger: the runs of one group, and how many of them are new in it."""

    size: str
    group: str
    runs: tuple[str, ...]
    new: int


def add_runs(store: Store, texts: Sequence[str], size: str) -> Added:
    """Keep the final metrics of runs as repetitions of one another at a size.

    Raises UserError for fewer than two, for runs that did not succeed or have no metrics, that
    differ in code or settings other than seeds, or of which two have the same seeds.
    """
    views = [load_view(store, run) for run in dict.fromkeys(find_run(store, t) for t in texts)]
    if len(views) < 2:
        raise UserError("two or more runs are needed, which differ in their seeds alone")
    for view in views:
        if view.status != "succeeded":
            raise UserError(f"run {view.run_id} has not succeeded, it is {view.status}")
        if not view.metrics:
            raise UserError(f"run {view.run_id} has no metrics of an evaluation")
        _check_like(views[0], view)
    seeds: dict[str, RunView] = {}
    for view in views:
        seed = dumps(seeds_of(view.config))
        if seed in seeds:
            raise UserError(
                f"runs {seeds[seed].run_id} and {view.run_id} have the same seeds, so they say "
                "nothing about the noise of seeds; set another one, for example: --set "
                "sft.train.seed=1"
            )
        seeds[seed] = view
    ledger = NoiseLedger(store)
    group = digest([without_seeds(views[0].config), views[0].code_digest])[:16]
    new = sum(
        ledger.add(Measured(size, group, seed, view.run_id, _kept(view.metrics)))
        for seed, view in seeds.items()
    )
    return Added(size, group, tuple(view.run_id for view in views), new)


def add_arms(
    store: Store,
    size: str,
    arms: Mapping[str, Mapping[int, Mapping[str, float]]],
    source: str,
) -> int:
    """Keep the metrics of one run's arms, {arm: {seed: metrics}}; return how many are new.

    For pipelines that train each arm with several seeds. An arm is told by `source` (the run) and
    its name: seeds of two runs are never taken for repetitions of one another.
    """
    ledger = NoiseLedger(store)
    return sum(
        ledger.add(Measured(size, digest([source, arm])[:16], str(seed), source, metrics))
        for arm, seeds in arms.items()
        for seed, metrics in seeds.items()
        if metrics
    )


def _kept(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what evaluation measured: not losses, nor chance, which no seed changes."""
    return {
        key: value
        for key, value in metrics.items()
        if "@" in key and not key.partition("/")[2].startswith("chance@")
    }


def add_reproduction(store: Store, text: str, size: str | None = None) -> Added:
    """Keep what a run of `vila reproduce` measured, an arm at the end of a stage being a group.

    `size` is the run's own by default. Raises UserError for a run of another kind, or one that has
    not succeeded.
    """
    from vila_ops.reproduce import runs

    found = runs.load(store, find_run(store, text))
    metrics = {
        name: _kept(task.metrics)
        for name, task in ((task.name, task) for task in load_view(store, found.run_id).tasks)
    }
    size = size or found.plan.size_name
    arms = arms_of(found.grid, metrics)
    return Added(size, "", (found.run_id,), add_arms(store, size, arms, found.run_id))


def arms_of(
    grid: Grid, metrics: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[int, dict[str, float]]]:
    """Return {arm: {seed: metrics}} of a grid; a model that several findings share counts once."""
    arms: dict[str, dict[int, dict[str, float]]] = {}
    taken: set[str] = set()
    for cell, nodes in grid.measured.items():
        if grid.trained[cell] in taken:
            continue
        taken.add(grid.trained[cell])
        values = {key: value for node in nodes.values() for key, value in metrics[node].items()}
        arms.setdefault(f"{cell.owner}/{cell.arm}/{cell.after}", {})[cell.seed] = values
    return arms


def known_noise(
    store: Store, size: str | None = None, runs: Sequence[str] = ()
) -> Mapping[str, Spread]:
    """Return what the ledger knows of a size, by metric.

    Default: of the size that one of these `runs` (ids) was added at, if it is one alone; what holds
    for a small model must not be taken for a large one's. Raises UserError for a size that it knows
    nothing of.
    """
    ledger = NoiseLedger(store)
    sizes = ledger.sizes()
    if size is None:
        theirs = [
            name for name in sizes if any(entry.source in runs for entry in ledger.entries(name))
        ]
        return ledger.spreads(theirs[0]) if len(theirs) == 1 else {}
    if size not in sizes:
        close = difflib.get_close_matches(size, sizes, n=1)
        known = f"known sizes: {', '.join(sizes)}." if sizes else "nothing is known yet."
        fix = f"did you mean '{close[0]}'?" if close else known
        raise UserError(f"--size {size}: no noise of seeds is known of it; {fix}")
    return ledger.spreads(size)


def _check_like(first: RunView, other: RunView) -> None:
    if first.code_digest != other.code_digest:
        raise UserError(
            f"runs {first.run_id} and {other.run_id} were made by different code, so that more "
            "than seeds may set them apart; run one of them again"
        )
    ours, theirs = (flatten(without_seeds(view.config)) for view in (first, other))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"runs {first.run_id} and {other.run_id} differ in more than seeds: {key} is "
                f"{ours.get(key)} and {theirs.get(key)}; compare them with: vila compare"
            )
