"""Recipes: a YAML file with one section per task, overridden by `--set`, checked by each stage."""

from __future__ import annotations

import difflib
import importlib
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import field_validator

from components.runtime import stage_module
from components.runtime.context import Tracking
from vila_core.config import Frozen, apply_overrides, read_yaml, validate
from vila_core.errors import UserError
from vila_core.jsonio import digest, dumps
from vila_ops.driver.graph import Graph, load_graph
from vila_ops.named import config_files, find_file, is_path


class _Head(Frozen):
    description: str = ""
    pipeline: str = "recipe"
    tracking: Tracking = Tracking()

    @field_validator("tracking", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("wandb") in (False, "off"):
            return {**value, "wandb": "disabled"}  # YAML reads off as false
        return value


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: the graph, and for each of its tasks a checked config."""

    name: str
    description: str
    pipeline: str
    tracking: Tracking
    graph: Graph
    configs: Mapping[str, Frozen]  # by section: the task's name with underscores

    def resolved(self) -> dict[str, Any]:
        """Return everything that the recipe sets, defaults included, as JSON-able values."""
        sections = {name: config.model_dump(mode="json") for name, config in self.configs.items()}
        head = {"pipeline": self.pipeline, "tracking": self.tracking.model_dump(mode="json")}
        return {**head, **sections}

    def digest(self) -> str:
        """Return the sha256 of the resolved recipe."""
        return digest(self.resolved())


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name (`configs/recipes/NAME.yaml`) or path, and apply `a.b=c` overrides.

    Raises UserError for an unknown recipe, section, key or value.
    """
    path = find_recipe(name)
    values = read_yaml(path)
    try:
        return resolve(path.stem, apply_overrides(values, overrides), where=str(path))
    except UserError:
        if not overrides:
            raise
        resolve(path.stem, values, where=str(path))  # when the file is at fault, say so
    return resolve(path.stem, apply_overrides(values, overrides), where="--set")


def resolve(
    name: str, values: Mapping[str, Any], *, where: str, graph: Graph | None = None
) -> Recipe:
    """Check a recipe's values. `where` names their source in errors. Raises UserError.

    The graph is the one that `pipeline` names, unless it is given.
    """
    head_keys = set(_Head.model_fields)
    head = validate(_Head, {k: v for k, v in values.items() if k in head_keys}, where=where)
    named = graph is None
    if graph is None:
        graph = load_graph(_compiled(head.pipeline, where))
    tasks = {task.config_key: task for task in graph.tasks.values()}
    for key, section in values.items():
        if key not in head_keys | tasks.keys():
            close = difflib.get_close_matches(key, [*tasks, *head_keys], n=1)
            fix = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(tasks))}."
            raise UserError(f"{where}: {key}: unknown section; {fix}")
        if key in tasks and not isinstance(section, Mapping | None):
            raise UserError(f"{where}: {key}: a mapping (key: value) is needed, found {section!r}.")
    configs = {
        key: validate(stage_config(task.stage), values.get(key) or {}, where=where, path=key)
        for key, task in tasks.items()
    }
    pipeline = str(graph.path.resolve()) if named and is_path(head.pipeline) else head.pipeline
    return Recipe(name, head.description, pipeline, head.tracking, graph, configs)


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by name or path. Raises UserError with the nearest name."""
    return find_file(name, config_files("recipes"), "recipe")


def pipeline_files() -> dict[str, Path]:
    """Return the compiled pipelines that come with the package, by name."""
    folder = Path(str(importlib.resources.files("pipelines"))) / "compiled"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config_json(config: Frozen) -> str:
    """Return a config as the pipeline parameter that a step receives."""
    return dumps(config.model_dump(mode="json"))


def stage_config(stage: str) -> type[Frozen]:
    """Return the config class of a stage; its module imports nothing heavy at its top.

    Raises UserError when there is no such stage.
    """
    module = stage_module(stage)
    try:
        return importlib.import_module(module).Config
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"the pipeline has a stage '{stage}', but there is no {module}.") from None


def _compiled(pipeline: str, where: str) -> Path:
    """Return the compiled file of a pipeline, given by name or by the path of a YAML file."""
    if is_path(pipeline):
        return Path(pipeline)
    known = pipeline_files()
    if pipeline not in known:
        raise UserError(f"{where}: pipeline: there is no '{pipeline}'; known: {', '.join(known)}.")
    return known[pipeline]
