"""The graph of a run's tasks as inline SVG: boxes by how deep they stand, left to right."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
WIDTH, HEIGHT = 172, 58
GAP_X, GAP_Y = 44, 14
MARGIN = 6
_ROUNDS = 4
_EDGE = '<path class="edge" d="M{:.0f} {:.0f}C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}"/>'

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


def place(tasks: Sequence[TaskView], edges: Edges) -> list[Box]:
    """Lay tasks out: each right of what it waits for, neighbours near each other."""
    names = {task.name: task for task in tasks}
    before = {name: [one for one in edges.get(name, ()) if one in names] for name in names}
    depth: dict[str, int] = {}

    def deep(name: str, path: frozenset[str] = frozenset()) -> int:
        if name not in depth:
            parents = [one for one in before[name] if one not in path]  # no circle holds us up
            depth[name] = 1 + max((deep(one, path | {name}) for one in parents), default=-1)
        return depth[name]

    layers: dict[int, list[str]] = {}
    for name in names:
        layers.setdefault(deep(name), []).append(name)
    after: dict[str, list[str]] = {name: [] for name in names}
    for name, parents in before.items():
        for parent in parents:
            after[parent].append(name)
    _untangle([layers[level] for level in sorted(layers)], before, after)
    tallest = max(map(len, layers.values()), default=0)
    boxes = []
    for level, members in layers.items():
        top = MARGIN + (tallest - len(members)) * (HEIGHT + GAP_Y) / 2
        for row, name in enumerate(members):
            x = MARGIN + level * (WIDTH + GAP_X)
            boxes.append(Box(names[name], x, top + row * (HEIGHT + GAP_Y)))
    return boxes


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
    boxes = place(view.tasks, edges)
    width = max(box.x for box in boxes) + WIDTH + MARGIN
    height = max(box.y for box in boxes) + HEIGHT + MARGIN
    at = {box.task.name: box for box in boxes}
    lines = [
        _line(at[parent], box)
        for box in boxes
        for parent in sorted(edges.get(box.task.name, ()))
        if parent in at
    ]
    return Markup(
        '<svg class="graph" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" height="{:.0f}" '
        'role="group" aria-label="Graph of tasks">{}{}</svg>'
    ).format(
        width,
        height,
        width,
        height,
        Markup("").join(lines),
        Markup("").join(_box(box, edges, chosen=box.task.name == shown) for box in boxes),
    )


def _line(parent: Box, child: Box) -> Markup:
    x1, y1 = parent.x + WIDTH, parent.y + HEIGHT / 2
    x2, y2 = child.x, child.y + HEIGHT / 2
    bend = min(GAP_X, (x2 - x1) / 2)
    return Markup(
        '<path class="edge" d="M{:.0f} {:.0f}C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}"/>'
    ).format(x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2)


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
        *(box.x + 10, box.y + 35, _cut(said, 25)),
        *(box.x + 10, box.y + 50, _cut(note, 27)),
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
