"""Lineage for programs: what a text may mean, and the graph of what it means."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from vila_core.errors import UserError
from vila_ops.lineage import Graph, LineageIndex, Node, find, trace_back, trace_forward
from vila_ops.lineage.find import nothing_found
from vila_ops.lineage.graph import MOST_NODES
from vila_ops.lineage.nodes import describe
from vila_ops.web.api.problem import ERRORS
from vila_ops.web.lineage_desk import desk_of
from vila_ops.web.watch import Watch

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["lineage"])


class DetailOut(BaseModel):
    """A fact about a node."""

    name: str
    value: str
    node: str = Field(description="The node that it leads to; empty if to none.")


class NodeOut(BaseModel):
    """A thing: a version, a run, a task, an artifact, a corpus, a shard, a digest of code."""

    id: str = Field(description="`kind:value`; may be asked for as `q`.")
    kind: str
    title: str
    missing: bool = Field(description="Named by a record, and not in the store any more.")
    note: str
    details: list[DetailOut]


class EdgeOut(BaseModel):
    """`made` was made from `source`, or with it, or leads to it."""

    made: str
    source: str
    label: str


class GraphOut(BaseModel):
    """All that was found from a root in one direction."""

    root: str
    nodes: list[NodeOut]
    edges: list[EdgeOut]
    left_out: dict[str, int] = Field(
        description="By node: about how many neighbours there are that are not here."
    )
    notes: list[str]


class LineageOut(BaseModel):
    """What a text means. With one meaning its graph comes along, with more ask again for one."""

    q: str
    found: list[NodeOut]
    back: GraphOut | None
    forward: GraphOut | None


@router.get("/lineage")
def lineage(
    request: Request,
    q: Annotated[str, Query(min_length=1, max_length=300, description="Name, id or digest.")],
    direction: Annotated[
        Literal["back", "forward", "both"], Query(description="Which way to follow.")
    ] = "both",
    limit: Annotated[int, Query(ge=1, le=1000, description="Nodes of a graph at most.")] = (
        MOST_NODES
    ),
) -> LineageOut:
    """Find what a text means, and what it was made from, and who uses it."""
    watch: Watch = request.app.state.watch
    text = q.strip()
    with desk_of(request.app, watch.store).current() as index:
        found = _found(index, text)
        back = forward = None
        if len(found) == 1 and direction != "forward":
            back = _graph(trace_back(index, found[0], limit))
        if len(found) == 1 and direction != "back":
            forward = _graph(trace_forward(index, found[0], limit))
        nodes = [_node(describe(index, one)) for one in found]
    return LineageOut(q=q, found=nodes, back=back, forward=forward)


def _found(index: LineageIndex, text: str) -> list[str]:
    try:
        found = find(index, text)
    except UserError as error:
        raise HTTPException(404, str(error)) from None
    if not found:
        raise HTTPException(404, nothing_found(index, text))
    exact = [one for one in found if one == text or one.partition(":")[2] == text]
    return exact if len(exact) == 1 else found


def _graph(graph: Graph) -> GraphOut:
    return GraphOut(
        root=graph.root,
        nodes=[_node(one) for one in graph.nodes.values()],
        edges=[EdgeOut(**vars(one)) for one in graph.edges],
        left_out=dict(graph.left_out),
        notes=list(graph.notes),
    )


def _node(node: Node) -> NodeOut:
    return NodeOut(
        id=node.id,
        kind=node.kind,
        title=node.title,
        missing=node.missing,
        note=node.note,
        details=[DetailOut(**vars(one)) for one in node.details],
    )
