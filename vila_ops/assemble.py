"""Recipes whose graph is put together for one run, such as a grid of seeds or many benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.assembled import Node, compile_nodes
from vila_core.config import Frozen
from vila_core.errors import require
from vila_ops.driver.graph import load_graph
from vila_ops.recipes import Recipe, resolve

PIPELINE = "assembled"
"""What such a run has as the name of its pipeline: the compiled file is kept with the run."""


def assemble(
    name: str,
    nodes: Sequence[Node],
    configs: Mapping[str, Frozen | Mapping[str, Any]],
    *,
    where: str,
    description: str = "",
    tracking: Mapping[str, Any] | None = None,
) -> Recipe:
    """Compile the nodes to a recipe with the config of each, by the node's name.

    `name` is the run's, and with dashes for what is not a letter or digit the pipeline's; `where`
    names in errors where the configs come from. Raises UserError for a config that its stage does
    not take, ValueError for nodes that are no graph.
    """
    require("kfp", extra="pipeline", why="put a pipeline together")
    keys = {node.name: node.config_key for node in nodes}
    plain = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    with tempfile.TemporaryDirectory(prefix="vila-") as folder:
        path = Path(folder) / "pipeline.yaml"
        compile_nodes(plain, nodes, path)
        graph = load_graph(path)
    sections = {
        keys[node]: config.model_dump(mode="json") if isinstance(config, Frozen) else config
        for node, config in configs.items()
    }
    head = {"description": description, "pipeline": PIPELINE, "tracking": dict(tracking or {})}
    return resolve(name, {**head, **sections}, where=where, graph=graph)
