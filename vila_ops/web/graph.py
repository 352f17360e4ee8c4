"""The graph of a run's tasks as inline SVG: boxes by how deep they stand, left to right."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from vila_core.errors import NotFound
from vila_core.store import Store
from vila_ops.cli.render import duration
from vila_ops.driver.graph import load_graph
from vila_ops.recipes import pipeline_files
from vila_ops.runs import kept_graph
from vila_ops.view import RunView, TaskView

MOST_TASKS = 150
WIDTH, HEIGHT = 164, 58
GAP_X, GAP_Y = 38, 14
LANE = 10
"""Height that a line takes where it passes a layer of boxes."""
MARGIN = 6
_ROUNDS = 4

Edges = Mapping[str, frozenset[str]]
"""What each task waits for."""


@dataclass(frozen=True)
class Box:
    """Where a task stands; x and y are of the top left corner."""

    task: TaskView
    x: float
    y: float


def edges_of(store: Store, run_id: str, pipeline: str) -> Edges:
    """Return what each task of a run waits for, by the graph that it was made from.

    Raises NotFound where neither the run nor this version of the package has that graph.
    """
    graph = kept_graph(store, run_id)
    if graph is not None:
        return {name: task.depends_on for name, task in graph.tasks.items()}
    path = pipeline_files().get(pipeline)
    if path is None:
        raise NotFound(f"there is no pipeline '{pipeline}' in this version of the package.")
    return _packaged(path)


@functools.lru_cache(maxsize=32)
def _packaged(path: Path) -> Edges:
    return {name: task.depends_on for name, task in load_graph(path).tasks.items()}


@dataclass(frozen=True)
class Layout:
    """Boxes, and for each edge that is drawn the points that its line goes through."""

    boxes: tuple[Box, ...]
    lines: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


def place(tasks: Sequence[TaskView], edges: Edges) -> Layout:
    """Lay tasks out: each right of what it waits for, neighbours near each other.

    An edge that follows from others is left out; one that is longer than a layer has a lane of its
    own between the boxes.
    """
    named = {task.name: task for task in tasks}
    before = {name: [one for one in edges.get(name, ()) if one in named] for name in named}
    depth = _depths(before)
    before = _without_detours(before, depth)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in named:
        layers[depth[name]].append(name)
    near: dict[str, list[str]] = {name: [] for name in named}
    after: dict[str, list[str]] = {name: [] for name in named}
    routes: list[list[str]] = []
    for name, parents in before.items():
        for parent in parents:
            lanes = [
                f"\0{parent}\0{name}\0{level}" for level in range(depth[parent] + 1, depth[name])
            ]
            for level, lane in enumerate(lanes, depth[parent] + 1):
                layers[level].append(lane)
            route = [parent, *lanes, name]
            routes.append(route)
            for left, right in pairwise(route):
                near.setdefault(right, []).append(left)
                after.setdefault(left, []).append(right)
    for lane in (lane for route in routes for lane in route[1:-1]):
        near.setdefault(lane, [])
        after.setdefault(lane, [])
    _untangle(layers, near, after)
    heights = [sum(_tall(name) + GAP_Y for name in layer) - GAP_Y for layer in layers]
    tallest = max(heights, default=0)
    corner: dict[str, tuple[float, float]] = {}
    for level, layer in enumerate(layers):
        top = MARGIN + (tallest - heights[level]) / 2
        for name in layer:
            corner[name] = (MARGIN + level * (WIDTH + GAP_X), top)
            top += _tall(name) + GAP_Y
    return Layout(
        boxes=tuple(Box(task, *corner[name]) for name, task in named.items()),
        lines=tuple(_through(route, corner) for route in routes),
        width=2 * MARGIN + len(layers) * (WIDTH + GAP_X) - GAP_X,
        height=2 * MARGIN + tallest,
    )


def _tall(name: str) -> int:
    return LANE if name.startswith("\0") else HEIGHT


def _depths(before: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return how deep each task stands. A circle, in a foreign graph, is cut."""
    depth: dict[str, int] = {}

    def deep(name: str, path: frozenset[str]) -> int:
        if name not in depth:
            parents = [one for one in before[name] if one not in path]
            depth[name] = 1 + max((deep(one, path | {name}) for one in parents), default=-1)
        return depth[name]

    for name in before:
        deep(name, frozenset())
    return depth


def _without_detours(
    before: Mapping[str, Sequence[str]], depth: Mapping[str, int]
) -> dict[str, list[str]]:
    """Leave out each edge whose ends are joined through other tasks as well."""
    above: dict[str, set[str]] = {}
    kept: dict[str, list[str]] = {}
    for name in sorted(before, key=depth.__getitem__):
        parents = [one for one in before[name] if depth[one] < depth[name]]
        further = {one for parent in parents for one in above[parent]}
        kept[name] = [one for one in parents if one not in further]
        above[name] = further | set(parents)
    return kept


def _through(
    route: Sequence[str], corner: Mapping[str, tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    points: list[tuple[float, float]] = []
    for index, name in enumerate(route):
        x, y = corner[name]
        middle = y + _tall(name) / 2
        if index:
            points.append((x, middle))
        if index < len(route) - 1:
            points.append((x + WIDTH, middle))
    return tuple(points)


def _untangle(
    layers: Sequence[list[str]],
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
) -> None:
    """Order each layer by where the neighbours of its tasks stand, forth and back."""
    for turn in range(_ROUNDS):
        row = {
            name: (index + 0.5) / len(layer) for layer in layers for index, name in enumerate(layer)
        }
        near = before if turn % 2 == 0 else after
        for layer in layers if turn % 2 == 0 else reversed(layers):
            layer.sort(key=functools.partial(_middle, row, near))
            row |= {name: (index + 0.5) / len(layer) for index, name in enumerate(layer)}


def _middle(row: Mapping[str, float], near: Mapping[str, Sequence[str]], name: str) -> float:
    found = [row[one] for one in near[name]]
    return sum(found) / len(found) if found else row[name]


def drawing(view: RunView, edges: Edges, shown: str = "") -> Markup:
    """Draw the graph. Every box is a link to its task on the run's page; empty for too many."""
    if not view.tasks or len(view.tasks) > MOST_TASKS:
        return Markup("")
    laid = place(view.tasks, edges)
    return Markup(
        '<svg class="graph" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" height="{:.0f}" '
        'role="group" aria-label="Graph of tasks">{}{}</svg>'
    ).format(
        *(laid.width, laid.height) * 2,
        Markup("").join(_line(points) for points in laid.lines),
        Markup("").join(_box(box, edges, chosen=box.task.name == shown) for box in laid.boxes),
    )


def _line(points: Sequence[tuple[float, float]]) -> Markup:
    path = "M{:.0f} {:.0f}".format(*points[0])
    for (x1, y1), (x2, y2) in pairwise(points):
        bend = (x2 - x1) / 2
        path += f"C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    return Markup('<path class="edge" d="{}"/>').format(path)


def _box(box: Box, edges: Edges, *, chosen: bool) -> Markup:
    task = box.task
    said = " · ".join(filter(None, [task.status, duration(task.duration_s)]))
    note = _note(task)
    waits = ", ".join(sorted(edges.get(task.name, ())))
    label = f"{task.name}: {said}" + (f", {note}" if note else "")
    label += f"; after {waits}" if waits else ""
    state = task.status.replace(" ", "-")
    return Markup(
        '<a href="?task={}#task" class="node {}{}" aria-label="{}" data-key="node-{}">'
        "<title>{}</title>"
        '<rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" rx="7"/>'
        '<text class="name" x="{:.0f}" y="{:.0f}">{}</text>'
        '<text class="state" x="{:.0f}" y="{:.0f}">{}</text>'
        '<text x="{:.0f}" y="{:.0f}">{}</text></a>'
    ).format(
        quote(task.name.encode("utf-8", "replace"), safe=""),
        state,
        " chosen" if chosen else "",
        label,
        task.name,
        label,
        *(box.x, box.y, WIDTH, HEIGHT),
        *(box.x + 10, box.y + 19, _cut(task.name, 21)),
        *(box.x + 10, box.y + 35, _cut(said, 24)),
        *(box.x + 10, box.y + 50, _cut(note, 23)),
    )


def _note(task: TaskView) -> str:
    if task.cached_from:
        return f"from {task.cached_from}"
    if task.status == "running" and task.progress.get("total"):
        done, total = task.progress.get("done"), task.progress["total"]
        if isinstance(done, int | float) and isinstance(total, int | float) and total:
            return f"{100 * done / total:.0f} % of {total:,.0f} {task.progress.get('unit', '')}"
    if task.attempt > 1:
        return f"attempt {task.attempt}"
    return task.stage if task.stage != task.name.replace("-", "_") else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
