"""Runs in a store: make one, find one, read one, stop one."""

from __future__ import annotations

import dataclasses
import difflib
import os
import platform
import re
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from components.runtime import record, stage_module
from components.runtime.code import code_digest
from vila_core.errors import AlreadyExists, NotFound, StoreError, UserError, VilaError
from vila_core.jsonio import digest
from vila_core.store import Store
from vila_ops.data.versions import pin
from vila_ops.driver.engine import remove_containers
from vila_ops.driver.graph import Graph, parse_graph
from vila_ops.driver.images import chosen as chosen_images
from vila_ops.recipes import Recipe, pipeline_files
from vila_ops.run_index import RunIndex
from vila_ops.view import RunView, TaskView, make_view

PACKAGES = ("torch", "transformers", "deepspeed", "kfp", "numpy", "wandb")
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05


def create_run(
    store: Store,
    recipe: Recipe,
    *,
    runner: str,
    name: str | None,
    argv: Sequence[str],
    images: Mapping[str, str] | None = None,
) -> str:
    """Write the record of a new run, and return its id.

    Versions of data (`dvc:PATH@REV`) are resolved here: later steps read them by content. A graph
    that does not come with the package is kept beside the record, so that the run can be resumed
    from any folder and machine. Raises UserError for an unusable name, or a version that can't be
    found.
    """
    if runner == "container":
        images = images or chosen_images(())
    run, stem = new_run(recipe, runner=runner, name=name, argv=argv)
    run["images"] = dict(images) if images else None  # by role, where tasks run in containers
    while True:
        run_id = new_id(stem)
        try:
            if recipe.pipeline not in pipeline_files():
                text = recipe.graph.text.encode()
                store.write(_pipeline_place(run_id), text, create_only=True)
            record.create_run(store, {**run, "run_id": run_id})
        except AlreadyExists:
            continue
        except StoreError as error:
            fix = "fix: choose another store, by --store URI or VILA_STORE"
            raise UserError(f"{error}\n  {fix}") from None
        return run_id


def new_run(
    recipe: Recipe, *, runner: str, name: str | None, argv: Sequence[str]
) -> tuple[dict[str, Any], str]:
    """Return what `run.json` of a new run holds, but for its id, and the run's name."""
    name = name or recipe.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", name):
        raise UserError(f"--name {name!r}: use letters, digits, '.', '_' and '-' (at most 61).")
    stages = sorted({task.stage for task in recipe.graph.tasks.values()})
    configs, versions = pin(recipe.configs)
    recipe = dataclasses.replace(recipe, configs=configs)
    codes = {stage: code_digest(stage_module(stage)).digest for stage in stages}
    run = {
        "name": name,
        "recipe": recipe.name,
        "config": recipe.resolved(),
        "config_digest": recipe.digest(),
        "dvc": versions,
        "runner": runner,
        "code_digest": digest(codes),
        "argv": list(argv),
        "environment": environment(),
        "pipeline": recipe.graph.name,
        # In the graph's order; JSON objects are written sorted, so as pairs.
        "tasks": [[task.name, task.stage] for task in recipe.graph.tasks.values()],
    }
    return run, name


def new_id(name: str) -> str:
    """Return an id that nothing else has: the name, the time (UTC) and two random bytes."""
    return f"{name}-{datetime.now(UTC):%m%d-%H%M%S}-{secrets.token_hex(2)}"


def kept_graph(store: Store, run_id: str) -> Graph | None:
    """Return the graph that is kept with a run; None where it came with the package."""
    place = _pipeline_place(run_id)
    try:
        return parse_graph(store.read(place).decode(), Path(place))
    except NotFound:
        return None


def _pipeline_place(run_id: str) -> str:
    return f"runs/{run_id}/pipeline.yaml"


def environment() -> dict[str, Any]:
    """Return what a run should remember of the machine and the packages."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": versions,
    }


def find_run(store: Store, text: str) -> str:
    """Return the run meant by an id, the beginning of one, a run's name, or `last`.

    A name means its newest run. Raises UserError when no run, or more than one, is meant.
    """
    if _is_run(store, text):
        return text
    runs = RunIndex(store).ids()
    if not runs:
        raise UserError(f"no runs in {store.uri} yet; start one with: vila run quickstart")
    if text == "last":
        return runs[0]
    named = [run for run in runs if run.rsplit("-", 3)[0] == text]
    if named:
        return named[0]
    begun = [run for run in runs if run.startswith(text)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        some = ", ".join(begun[:4]) + (", ..." if len(begun) > 4 else "")
        raise UserError(f"'{text}' is the beginning of {len(begun)} runs: {some}; give more of it.")
    close = difflib.get_close_matches(text, [*runs, *(run.rsplit("-", 3)[0] for run in runs)], n=1)
    hint = f"did you mean '{close[0]}'?" if close else "see: vila runs"
    raise UserError(f"there is no run '{text}'; {hint}")


def _is_run(store: Store, text: str) -> bool:
    try:
        return "/" not in text and store.exists(f"runs/{text}/run.json")
    except ValueError:  # no store key: so it is no run id
        return False


def load_view(store: Store, run_id: str) -> RunView:
    """Read a run as people see it. Raises NotFound."""
    return make_view(record.RunRecord.load(store, run_id))


def find_task(view: RunView, name: str) -> TaskView:
    """Return a task of a run. Raises UserError with the nearest name."""
    task = view.task(name) or view.task(name.replace("_", "-"))
    if task is not None:
        return task
    names = [task.name for task in view.tasks]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"its tasks: {', '.join(names)}."
    raise UserError(f"run {view.run_id} has no task '{name}'; {hint}")


def check_resumable(store: Store, run_id: str) -> None:
    """Raise UserError for a run that is still running or has succeeded."""
    status = load_view(store, run_id).status
    if status == "succeeded":
        raise UserError(f"run {run_id} has succeeded, there is nothing to resume.")
    if status == "running":
        raise UserError(f"run {run_id} is running; follow it with: vila logs {run_id} -f")


def stop_run(store: Store, run_id: str) -> None:
    """End a run's driver, which ends its tasks, and wait until that is recorded.

    Raises UserError for a run that is not running, or runs on another machine.
    """
    found = record.RunRecord.load(store, run_id)
    if found.status != "running":
        if found.run["runner"] == "container" and remove_containers(run_id):
            return  # of a driver that died, on an engine that lost track of them
        raise UserError(f"run {run_id} is not running, it is {found.status}.")
    if found.driver is None or found.driver["host"] != platform.node():
        place = found.driver["host"] if found.driver else "a driver that has not started yet"
        raise UserError(f"run {run_id} is driven by {place}; stop it there.")
    try:
        os.kill(found.driver["pid"], signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise UserError(f"run {run_id} belongs to another user; it can't be stopped.") from None
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if record.RunRecord.load(store, run_id).status != "running":
            return
        time.sleep(POLL_SECONDS)
    raise VilaError(f"{run_id} did not end within {STOP_SECONDS:.0f} s; see: vila show {run_id}")
