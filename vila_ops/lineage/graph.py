"""The graph of lineage: from one thing back to all it was made from, or forward to who uses it.

Nodes are named `kind:value`:

    version:miniature@1   alias:miniature@candidate   run:RUN   task:RUN/TASK/ATTEMPT
    artifact:SHA256       corpus:SHA256/NAME          shard:SHA256
    config:SHA256         code:SHA256                 commit:REVISION   dvc:MD5

An edge points from what was made to what it was made from, whichever way it was found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vila_core.errors import Damaged, NotFound

MOST_NODES = 300
MOST_FROM_ONE = 60
"""Neighbours of one node that are followed; of the rest it is told how many there may be."""


TIMES = ("registered", "started")
"""Details that are times: ISO 8601."""


@dataclass(frozen=True)
class Detail:
    """A fact about a node. `node` is the node that it leads to, if it leads to one."""

    name: str
    value: str
    node: str = ""


@dataclass(frozen=True)
class Node:
    """One thing."""

    id: str
    title: str
    details: tuple[Detail, ...] = ()
    missing: bool = False  # it is named by a record, and not in the store any more
    note: str = ""

    @property
    def kind(self) -> str:
        """version, alias, run, task, artifact, corpus, shard, config, code, commit or dvc."""
        return self.id.partition(":")[0]

    @property
    def value(self) -> str:
        """What it is named by."""
        return self.id.partition(":")[2]


@dataclass(frozen=True)
class Edge:
    """`made` was made from `source`, or with it, or leads to it."""

    made: str
    source: str
    label: str


@dataclass(frozen=True)
class Graph:
    """What was found. `left_out` is about how many neighbours were not followed, by node.

    Beyond the newest records that hold a digest each counts as one, whatever it holds.
    """

    root: str
    forward: bool
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)  # by node
    notes: tuple[str, ...] = ()

    def children(self, node_id: str) -> list[tuple[str, Node]]:
        """Return (label, node) of what comes next, away from the root, in order."""
        if self.forward:
            found = [(edge.label, edge.made) for edge in self.edges if edge.source == node_id]
        else:
            found = [(edge.label, edge.source) for edge in self.edges if edge.made == node_id]
        return [(label, self.nodes[name]) for label, name in found]

    def as_json(self) -> dict[str, Any]:
        """Return the graph as a JSON-able mapping."""
        return {
            "root": self.root,
            "direction": "forward" if self.forward else "back",
            "nodes": [
                {"id": node.id, "kind": node.kind, **asdict(node)} for node in self.nodes.values()
            ],
            "edges": [asdict(edge) for edge in self.edges],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Step:
    """A neighbour: its node, how it is related, and the run that it was reached in."""

    node: str
    label: str
    run: str = ""


def walk(
    root: str,
    *,
    forward: bool,
    describe: Callable[[str, str], Node],
    steps: Callable[[str, str], Iterator[Step | int]],
    most: int = MOST_NODES,
) -> Graph:
    """Follow `steps(node id, run) -> Iterator[Step | int]` breadth first from a root.

    An int says how many neighbours there may be beyond those that were given.
    """
    nodes = {root: describe(root, "")}
    edges: dict[tuple[str, str, str], Edge] = {}
    left: dict[str, int] = {}
    notes: list[str] = []
    todo = deque([(root, "")])
    while todo:
        here, run = todo.popleft()
        for given, step in enumerate(_until_broken(steps(here, run), notes)):
            if isinstance(step, int):
                left[here] = left.get(here, 0) + step
                continue
            if step.node not in nodes:
                if len(nodes) >= most or given >= MOST_FROM_ONE:
                    left[here] = left.get(here, 0) + 1
                    continue
                nodes[step.node] = describe(step.node, step.run)
                todo.append((step.node, step.run))
            made, source = (step.node, here) if forward else (here, step.node)
            edges.setdefault((made, source, step.label), Edge(made, source, step.label))
    return Graph(root, forward, nodes, tuple(edges.values()), left, tuple(dict.fromkeys(notes)))


def _until_broken(found: Iterator[Step | int], notes: list[str]) -> Iterator[Step | int]:
    """Yield what is found; a part of the store that is damaged ends it with a note."""
    try:
        yield from found
    except (Damaged, NotFound) as error:
        notes.append(str(error))
