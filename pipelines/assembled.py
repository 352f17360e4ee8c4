"""Graphs that are put together from a list of nodes: a grid of arms and seeds, many benchmarks.

The result is a KFP pipeline as any other: one task per node, one parameter for each node's config.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True)
class Node:
    """One task: a component (`components.<component>.<component>`) and where its inputs come from.

    `name` is lower case with dashes, and `config_key` of it names the parameter with its config.
    """

    name: str
    component: str
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # input -> (node, output)

    @property
    def config_key(self) -> str:
        """The section of the run's config, and parameter of the pipeline, that holds its config."""
        return self.name.replace("-", "_")


def compile_nodes(name: str, nodes: Sequence[Node], path: Path) -> None:
    """Compile nodes, each after those it takes inputs from, into the pipeline file `path`.

    The same nodes give the same bytes. Raises ValueError for a name that is none or stands twice,
    or an input from a node that does not come earlier.
    """
    _check(nodes)
    from kfp import compiler, dsl

    keys = ["context", *(node.config_key for node in nodes)]

    def assembled(*values: Any) -> None:
        parameters = dict(zip(keys, values, strict=True))
        tasks: dict[str, dsl.PipelineTask] = {}
        for node in nodes:
            component = getattr(
                importlib.import_module(f"components.{node.component}"), node.component
            )
            inputs = {key: tasks[source].outputs[out] for key, (source, out) in node.inputs.items()}
            task = component(
                context=parameters["context"],
                task=node.name,
                config=parameters[node.config_key],
                **inputs,
            )
            task.set_display_name(node.name)
            # KFP's cache does not see library code; the step looks into our own, which does.
            task.set_caching_options(False)
            tasks[node.name] = task

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(key, kind, annotation=str) for key in keys])
    assembled.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    assembled.__annotations__ = dict.fromkeys(keys, str)
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(dsl.pipeline(name=name)(assembled), str(path))


def _check(nodes: Sequence[Node]) -> None:
    earlier: set[str] = set()
    for node in nodes:
        if not _NAME.fullmatch(node.name) or node.config_key in {"context", "pipeline", "tracking"}:
            raise ValueError(f"'{node.name}' is no name of a node: a-z, 0-9 and dashes")
        if node.name in earlier:
            raise ValueError(f"two nodes are named '{node.name}'")
        for source, _ in node.inputs.values():
            if source not in earlier:
                raise ValueError(f"node '{node.name}': its input '{source}' is no earlier node")
        earlier.add(node.name)
