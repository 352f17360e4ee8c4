"""The graph of tasks, read from a compiled pipeline (KFP's intermediate representation).

Read as plain YAML: neither kfp nor the components are imported, so that a run that finds
everything in the cache pays for neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vila_core.errors import UserError


@dataclass(frozen=True)
class Parameter:
    """The value of one task parameter: a constant, or a parameter of the pipeline."""

    constant: Any = None
    pipeline_input: str | None = None

    def value(self, arguments: Mapping[str, Any]) -> Any:
        """Return the value, given the pipeline's arguments."""
        return self.constant if self.pipeline_input is None else arguments[self.pipeline_input]


@dataclass(frozen=True)
class Task:
    """One node. `name` is the display name (`evaluate-base`), `key` KFP's own (`evaluate`)."""

    name: str
    key: str
    component: str
    executor: str
    stage: str  # the component's function, which is named after its stage
    parameters: Mapping[str, Parameter]
    inputs: Mapping[str, tuple[str, str]]  # input -> (task name, its output)
    outputs: Mapping[str, str]  # output -> KFP schema title, metrics left out
    depends_on: frozenset[str]

    @property
    def config_key(self) -> str:
        """The recipe section, and pipeline parameter, that holds this task's config."""
        return self.parameters["config"].pipeline_input or self.name.replace("-", "_")


@dataclass(frozen=True)
class Graph:
    """A compiled pipeline: its tasks in an order in which they could run one by one."""

    name: str
    path: Path
    spec: Mapping[str, Any]
    tasks: Mapping[str, Task]
    urgency: Mapping[str, int]  # length of the longest chain of tasks that starts at each task
    text: str = ""  # the compiled file


def load_graph(path: Path) -> Graph:
    """Read a compiled pipeline. Raises UserError for a file that is none, or has nested graphs."""
    try:
        return parse_graph(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}.") from None


def parse_graph(text: str, path: Path) -> Graph:
    """Read a compiled pipeline from the text of the file `path`. Raises as `load_graph` does."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        spec = yaml.load(text, Loader=loader)
        nodes = spec["root"]["dag"]["tasks"]
        tasks = [_task(spec, key, node, nodes) for key, node in nodes.items()]
    except (KeyError, TypeError, yaml.YAMLError):
        raise UserError(
            f"{path}: is not a compiled pipeline of plain tasks; "
            "fix: compile it with 'python -m pipelines.compile'."
        ) from None
    urgency = _urgency(tasks)
    # Every task is less urgent than what it waits for, so this is an order by dependency too.
    ordered = sorted(tasks, key=lambda task: (-urgency[task.name], task.name))
    return Graph(
        name=spec["pipelineInfo"]["name"],
        path=path,
        spec=spec,
        tasks={task.name: task for task in ordered},
        urgency=urgency,
        text=text,
    )


def _task(spec: Any, key: str, node: Any, nodes: Any) -> Task:
    component = node["componentRef"]["name"]
    interface = spec["components"][component]
    label = interface["executorLabel"]  # a nested graph has none: KeyError, told by the caller
    args = spec["deploymentSpec"]["executors"][label]["container"]["args"]
    given = node.get("inputs", {})
    artifacts = {
        name: (
            _name(value["taskOutputArtifact"]["producerTask"], nodes),
            value["taskOutputArtifact"]["outputArtifactKey"],
        )
        for name, value in given.get("artifacts", {}).items()
    }
    outputs = interface.get("outputDefinitions", {}).get("artifacts", {})
    titles = {name: value["artifactType"]["schemaTitle"] for name, value in outputs.items()}
    return Task(
        name=_name(key, nodes),
        key=key,
        component=component,
        executor=label,
        stage=args[args.index("--function_to_execute") + 1],
        parameters={
            name: Parameter(
                constant=value.get("runtimeValue", {}).get("constant"),
                pipeline_input=value.get("componentInputParameter"),
            )
            for name, value in given.get("parameters", {}).items()
        },
        inputs=artifacts,
        outputs={name: title for name, title in titles.items() if title != "system.Metrics"},
        depends_on=frozenset(_name(other, nodes) for other in node.get("dependentTasks", [])),
    )


def _name(key: str, nodes: Any) -> str:
    return nodes[key].get("taskInfo", {}).get("name", key)


def _urgency(tasks: list[Task]) -> dict[str, int]:
    followers: dict[str, list[str]] = {task.name: [] for task in tasks}
    for task in tasks:
        for earlier in task.depends_on:
            followers[earlier].append(task.name)

    def chain(name: str) -> int:
        return 1 + max((chain(other) for other in followers[name]), default=0)

    return {task.name: chain(task.name) for task in tasks}
