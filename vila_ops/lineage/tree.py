"""A graph as a tree of lines: each thing once in full, later only by its name."""

from __future__ import annotations

from collections.abc import Iterator

from vila_ops.lineage.graph import TIMES, Detail, Graph, Node
from vila_ops.lineage.nodes import SHORT

_HIDDEN = {
    "artifact": ("sha256",),
    "task": ("key", "run", "status"),
    "corpus": ("manifest",),
    "shard": ("sha256", "corpus"),
}
"""Details that the line above says, or that scripts alone need."""


def lines(graph: Graph) -> Iterator[str]:
    """Yield the lines of a tree; digests are cut to twelve digits."""
    root = graph.nodes[graph.root]
    yield head(root, "")
    yield from (f"  {text}" for text in _told(root))
    yield from _below(graph, graph.root, "", {graph.root})
    for note in graph.notes:
        yield f"note: {note}"


def head(node: Node, label: str) -> str:
    """Return a node in one line, after how it is related to the one above."""
    name = node.title if node.kind != "task" else f"{node.title} of {node.value.partition('/')[0]}"
    lead = f"{label}: " if label and label != node.kind else ""
    return f"{lead}{node.kind} {name}{'  MISSING' if node.missing else ''}"


def _told(node: Node) -> Iterator[str]:
    """Yield the details in lines of a width that fits below a branch."""
    line, cached = "", node.kind == "task" and node.note.startswith("taken from the cache")
    for detail in node.details:
        if detail.name in _HIDDEN.get(node.kind, ()) or cached:
            continue
        text = f"{detail.name} {short(detail)}"
        if line and len(line) + len(text) > 56:
            yield line
            line = ""
        line = f"{line}, {text}" if line else text
    if line:
        yield line
    if node.note and (not cached or "gone" in node.note):  # else the branch says it
        yield f"({node.note})"


def short(detail: Detail) -> str:
    """Return a detail's value, a digest cut, a time to the minute."""
    value = detail.value
    if detail.name in TIMES and value.endswith("+00:00"):
        return value[:16].replace("T", " ") + " UTC"
    return value[:SHORT] if len(value) in (32, 40, 64) and value.isalnum() else value


def _below(graph: Graph, node_id: str, lead: str, seen: set[str]) -> Iterator[str]:
    found = graph.children(node_id)
    more = graph.left_out.get(node_id, 0)
    for number, (label, node) in enumerate(found, start=1):
        last = number == len(found) and not more
        branch, rest = ("└ ", "  ") if last else ("├ ", "│ ")
        if node.id in seen:
            again = " (above)" if graph.children(node.id) else ""
            yield f"{lead}{branch}{head(node, label)}{again}"
            continue
        seen.add(node.id)
        yield f"{lead}{branch}{head(node, label)}"
        under = "│ " if graph.children(node.id) else "  "
        yield from (f"{lead}{rest}{under}{text}" for text in _told(node))
        yield from _below(graph, node.id, lead + rest, seen)
    if more:
        yield f"{lead}└ and about {more:,} more"
