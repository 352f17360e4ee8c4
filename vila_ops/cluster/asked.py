"""What the tasks of a cluster's config, or of a recipe on it, ask the cluster for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vila_ops.cluster.config import ClusterConfig, TaskPlace
from vila_ops.cluster.quantities import amount


@dataclass(frozen=True)
class Asked:
    """Tasks that get the same place. `nodes` is the most that one of them trains on."""

    tasks: tuple[str, ...]
    place: TaskPlace
    nodes: int = 1

    @property
    def title(self) -> str:
        """The tasks' names, shortened."""
        more = f" and {len(self.tasks) - 2} more" if len(self.tasks) > 3 else ""
        return ", ".join(self.tasks if not more else self.tasks[:2]) + more

    def needs(self) -> dict[str, float]:
        """Return what one pod requests, by resource: cpu in cores, memory in bytes, GPUs."""
        found = {"cpu": amount(self.place.cpu), "memory": amount(self.place.memory)}
        if self.place.gpu:
            found[self.place.gpu.resource] = float(self.place.gpu.count)
        return found

    def selector(self) -> dict[str, str]:
        """Return the labels that a node must have."""
        found = dict(self.place.node_selector)
        if self.place.gpu and self.place.gpu.product:
            found["nvidia.com/gpu.product"] = self.place.gpu.product
        return found


def asked_by(config: ClusterConfig, recipe: str | None, overrides: Sequence[str]) -> list[Asked]:
    """Return the places of a recipe's tasks; without one, of those that the config names.

    Raises UserError for an unknown recipe.
    """
    tasks = [(name, name, 1) for name in ("defaults", *config.tasks)]
    if recipe is not None:
        tasks = _of_recipe(recipe, overrides)
    places: dict[str, tuple[TaskPlace, list[str], int]] = {}
    for name, stage, nodes in tasks:
        place = config.defaults if name == "defaults" else config.place(name, stage)
        key = f"{place.model_dump_json()} {nodes}"
        places.setdefault(key, (place, [], nodes))[1].append(name)
    return [Asked(tuple(names), place, nodes) for place, names, nodes in places.values()]


def _of_recipe(recipe: str, overrides: Sequence[str]) -> list[tuple[str, str, int]]:
    from vila_ops.recipes import load_recipe

    resolved = load_recipe(recipe, overrides)
    found = []
    for task in resolved.graph.tasks.values():
        train = getattr(resolved.configs[task.config_key], "train", None)
        found.append((task.name, task.stage, int(getattr(train, "nodes", 1) or 1)))
    return found
