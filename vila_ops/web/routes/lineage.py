"""Lineage: search, and what was found drawn and listed, back and forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup

from vila_core.errors import UserError
from vila_ops.lineage import Graph, LineageIndex, Node, find, trace_back, trace_forward
from vila_ops.lineage.drawing import drawing, link
from vila_ops.lineage.find import nothing_found
from vila_ops.lineage.nodes import describe
from vila_ops.web.lineage_desk import Busy, desk_of
from vila_ops.web.pages import page
from vila_ops.web.parts import part
from vila_ops.web.watch import Watch

MOST_SHOWN = 150
MOST_QUERY = 300

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Branch:
    """A node in the nested list, what it is to the one above, and what hangs on it."""

    label: str
    node: Node
    href: str
    own_page: str
    branches: tuple[Branch, ...]
    again: bool
    left_out: int


@dataclass(frozen=True)
class Shown:
    """One direction: drawing and nested list."""

    graph: Graph
    svg: Markup
    tree: Branch


@router.get("/lineage")
def lineage(request: Request, q: Annotated[str, Query(max_length=MOST_QUERY)] = "") -> Response:
    """Show what `q` was made from and who uses it, or what it may mean."""
    watch: Watch = request.app.state.watch
    text = q.strip()
    try:
        with desk_of(request.app, watch.store).current() as index:
            unreadable = dict(index.unreadable)
            examples = [] if text else _examples(index)
            found, nothing = _find(index, text)
            back = forward = None
            if len(found) == 1:
                root = found[0]
                back = part(lambda: shown(trace_back(index, root, MOST_SHOWN)))
                forward = part(lambda: shown(trace_forward(index, root, MOST_SHOWN)))
            candidates = [describe(index, one) for one in found] if len(found) > 1 else []
            root_node = describe(index, found[0]) if len(found) == 1 else None
    except Busy as busy:
        return page(request, "lineage_waiting.html", code=503, q=text, said=str(busy))
    return page(
        request,
        "lineage.html",
        code=404 if nothing else 200,
        q=text,
        nothing=nothing,
        candidates=candidates,
        root=root_node,
        own_page=own_page(root_node) if root_node else "",
        back=back,
        forward=forward,
        examples=examples,
        link=link,
        unreadable=unreadable,
    )


def shown(graph: Graph) -> Shown:
    """Return a graph as a page shows it."""
    seen: set[str] = set()

    def branch(label: str, node: Node) -> Branch:
        again = node.id in seen
        seen.add(node.id)
        below = () if again else tuple(branch(*one) for one in graph.children(node.id))
        return Branch(
            "" if label == node.kind else label,
            node,
            link(node.id),
            own_page(node),
            below,
            again and bool(graph.children(node.id)),
            0 if again else graph.left_out.get(node.id, 0),
        )

    return Shown(graph, drawing(graph), branch("", graph.nodes[graph.root]))


def own_page(node: Node) -> str:
    """Return the page of the dashboard about a node itself; "" where there is none."""
    if node.kind == "run" and not node.missing:
        return f"/runs/{quote(node.value, safe='')}"
    if node.kind == "task" and not node.value.endswith("/0"):
        run, _, rest = node.value.partition("/")
        task = quote(rest.rpartition("/")[0], safe="")
        return f"/runs/{quote(run, safe='')}?task={task}#log"
    if node.kind == "version" and not node.missing:
        model, _, number = node.value.partition("@")
        return f"/registry/{quote(model, safe='')}/{number}"
    if node.kind == "alias":
        return f"/registry/{quote(node.value.partition('@')[0], safe='')}"
    return ""


def _find(index: LineageIndex, text: str) -> tuple[list[str], str]:
    """Return the nodes that a text may mean, or in words why it means none."""
    if not text:
        return [], ""
    try:
        found = find(index, text)
    except UserError as error:
        return [], str(error)
    exact = [one for one in found if one == text or one.partition(":")[2] == text]
    if len(exact) == 1:
        return exact, ""
    return found, "" if found else nothing_found(index, text)


def _examples(index: LineageIndex) -> list[tuple[str, str]]:
    """Return some things to look for that are there: (what it is, text)."""
    versions = index.version_names()[-3:]
    runs = sorted(index.run_ids(), key=lambda one: one.rsplit("-", 3)[1:])[-3:]
    corpora = dict.fromkeys(one.name for facts in index.all_data() for one in facts.corpora)
    return [
        *(("version", name) for name in reversed(versions)),
        *(("run", run_id) for run_id in reversed(runs)),
        *(("corpus", name) for name in list(corpora)[:6]),
    ]
