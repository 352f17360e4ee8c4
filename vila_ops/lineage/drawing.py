"""A graph of lineage as inline SVG: boxes that are links, no script, colours from the style sheet.

Top down, away from the root. An artifact between the task that made it and those that took it is
the line between them; it is a box where it is the root, is missing, or nobody is known to have made
it. Shards are left to the list below the drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup

from vila_ops.lineage.graph import Graph, Node

MOST_BOXES = 70
WIDTH, HEIGHT = 176, 44
GAP_X, GAP_Y, ROW_Y = 16, 46, 12
MOST_IN_ROW = 7
MOST_LINES = 24
"""Of more, those are left out that only cut a longer way short."""
_CHARACTERS = 23
_ROUNDS = 40
"""Layers at most: records that were tampered with may name each other in a circle."""


@dataclass(frozen=True)
class Line:
    """From `above` to `below` in the drawing; `up` if what is made stands above."""

    above: str
    below: str
    label: str
    up: bool


def drawing(graph: Graph) -> Markup:
    """Draw a graph; empty where nothing is connected to the root."""
    lines = _lines(graph)
    boxes = _boxes(graph, lines)
    if len(boxes) < 2:
        return Markup("")
    lines = [line for line in lines if line.above in boxes and line.below in boxes]
    reduced = len(lines) > MOST_LINES
    if reduced:
        lines = _without_shortcuts(lines)
    places, width, height = _places(graph.root, boxes, lines)
    parts = [_path(line, places) for line in lines]
    parts += [_box(graph.nodes[name], places[name], name == graph.root) for name in boxes]
    what = "uses of" if graph.forward else "what was used for"
    root = graph.nodes[graph.root]
    left = len(graph.nodes) - len(boxes)
    label = f"Drawing of the {what} {root.kind} {root.title}: {len(boxes)} things"
    return Markup(
        '<svg class="lineage" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="group" '
        'aria-label="{2}"><title>{2}{3}</title><defs><marker id="{4}" viewBox="0 0 8 8" refX="7" '
        'refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>{5}</svg>'
    ).format(
        width,
        height,
        label,
        (f"; {left} more are in the list" if left > 0 else "")
        + ("; where a longer way leads too, the direct line is left out" if reduced else ""),
        _marker(graph),
        Markup("").join(parts),
    )


def _marker(graph: Graph) -> str:
    return "tip-forward" if graph.forward else "tip-back"


def link(node_id: str) -> str:
    """Return the page that a box leads to: the lineage of that node."""
    return f"/lineage?q={quote(node_id, safe='')}"


def _lines(graph: Graph) -> list[Line]:
    """Return the lines, with artifacts between two tasks taken out."""
    below: dict[str, list[tuple[str, str]]] = {}
    for edge in graph.edges:
        above, under = (edge.source, edge.made) if graph.forward else (edge.made, edge.source)
        below.setdefault(above, []).append((under, edge.label))
    taken_out = {name for name, node in graph.nodes.items() if _between(graph, node, below)}
    found: dict[tuple[str, str], Line] = {}

    def join(above: str, under: str, label: str) -> None:
        found.setdefault((above, under), Line(above, under, label, not graph.forward))

    for above, ways in below.items():
        if above in taken_out:
            continue
        for under, label in ways:
            if under not in taken_out:
                join(above, under, label)
                continue
            makers = [one for one, _ in below[under] if not one.startswith("corpus:")]
            for one in makers:
                join(above, one, label)
            for one, _ in below[under]:
                if one.startswith("corpus:"):
                    join(makers[0], one, "corpus")
    return list(found.values())


def _between(graph: Graph, node: Node, below: Mapping[str, list[tuple[str, str]]]) -> bool:
    if node.kind != "artifact" or node.id == graph.root or node.missing:
        return False
    return any(not one.startswith("corpus:") for one, _ in below.get(node.id, ()))


def _without_shortcuts(lines: list[Line]) -> list[Line]:
    """Leave out lines beside a longer way: what is used at every step would hide all others."""
    below: dict[str, list[str]] = {}
    for line in lines:
        below.setdefault(line.above, []).append(line.below)

    def leads(line: Line) -> bool:
        todo = [one for one in below[line.above] if one != line.below]
        seen = set(todo)
        while todo:
            for one in below.get(todo.pop(), ()):
                if one == line.below:
                    return True
                if one not in seen:
                    seen.add(one)
                    todo.append(one)
        return False

    return [line for line in lines if not leads(line)]


def _boxes(graph: Graph, lines: Iterable[Line]) -> dict[str, None]:
    """Return the nodes that are drawn, in the order in which they were found."""
    joined = {graph.root}
    for line in lines:
        joined |= {line.above, line.below}
    shown = [
        name
        for name, node in graph.nodes.items()
        if name in joined and (node.kind != "shard" or name == graph.root)
    ]
    return dict.fromkeys(shown[:MOST_BOXES])


def _places(
    root: str, boxes: Mapping[str, None], lines: Iterable[Line]
) -> tuple[dict[str, tuple[float, float]], int, int]:
    """Return the left upper corner of each box, and the size of the drawing."""
    layer = dict.fromkeys(boxes, 0)
    lines = list(lines)
    for _ in range(min(_ROUNDS, len(boxes))):
        changed = False
        for line in lines:
            if line.below != root and layer[line.below] < min(layer[line.above] + 1, _ROUNDS):
                layer[line.below] = layer[line.above] + 1
                changed = True
        if not changed:
            break
    above: dict[str, list[str]] = {}
    for line in lines:
        above.setdefault(line.below, []).append(line.above)
    rows: list[list[str]] = []
    tops: list[float] = []
    centre: dict[str, float] = {root: 0.0}
    y = 4.0
    for number in sorted(set(layer.values())):
        names = [name for name in boxes if layer[name] == number]

        def wish(name: str) -> float:
            known = [centre[one] for one in above.get(name, ()) if one in centre]
            return sum(known) / len(known) if known else 0.0

        names.sort(key=wish)
        for start in range(0, len(names), MOST_IN_ROW):
            row = names[start : start + MOST_IN_ROW]
            if start:
                y += HEIGHT + ROW_Y
            for place, name in enumerate(row):
                centre[name] = (place - (len(row) - 1) / 2) * (WIDTH + GAP_X)
            rows.append(row)
            tops.append(y)
        y += HEIGHT + GAP_Y
    widest = max(len(row) for row in rows)
    width = widest * (WIDTH + GAP_X) - GAP_X + 8
    found = {
        name: (width / 2 + centre[name] - WIDTH / 2, top)
        for row, top in zip(rows, tops, strict=True)
        for name in row
    }
    return found, width, int(y - GAP_Y + 4)


def _path(line: Line, places: Mapping[str, tuple[float, float]]) -> Markup:
    (ax, ay), (bx, by) = places[line.above], places[line.below]
    ax, bx, ay = ax + WIDTH / 2, bx + WIDTH / 2, ay + HEIGHT
    half = (by - ay) / 2
    tip = "marker-start" if line.up else "marker-end"
    name = "tip-back" if line.up else "tip-forward"
    return Markup(
        '<path class="way{}" d="M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}" '
        '{}="url(#{})"><title>{}</title></path>'
    ).format(
        " cached" if "cache" in line.label else "",
        ax, ay, ax, ay + half, bx, by - half, bx, by, Markup(tip), name, line.label,
    )  # fmt: skip


def _box(node: Node, place: tuple[float, float], is_root: bool) -> Markup:
    x, y = place
    second = _second(node)
    classes = f"box {node.kind}{' missing' if node.missing else ''}{' root' if is_root else ''}"
    told = f"{node.kind} {node.title}" + (f", {second}" if second else "")
    if node.missing:
        told += ", missing"
    return Markup(
        '<a href="{}" class="{}" aria-label="{}"><title>{}</title>'
        '<rect x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="7"/>'
        '<text class="name" x="{:.1f}" y="{:.1f}">{}</text>'
        '<text x="{:.1f}" y="{:.1f}">{}</text></a>'
    ).format(
        link(node.id), classes, told, told, x, y, WIDTH, HEIGHT,
        x + 10, y + 19, _cut(node.title), x + 10, y + 35, _cut(second or node.kind, 27),
    )  # fmt: skip


def _second(node: Node) -> str:
    """Return the second line of a box: what tells it from others of its kind."""
    told = {detail.name: detail.value for detail in node.details}
    if node.kind == "task":
        return ("cached · " if node.note.startswith("taken") else "") + node.value.partition("/")[0]
    if node.kind == "version":
        return told.get("alias") or "version"
    if node.kind == "corpus":
        return " · ".join(filter(None, (told.get("samples"), told.get("licence"))))
    return "missing" if node.missing else node.kind


def _cut(text: str, most: int = _CHARACTERS) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"
