"""What was made from what: versions, runs, tasks, artifacts, code, config, data: one graph."""

from vila_ops.lineage.back import trace_back
from vila_ops.lineage.find import find, find_one
from vila_ops.lineage.forward import trace_forward
from vila_ops.lineage.graph import Detail, Edge, Graph, Node
from vila_ops.lineage.index import LineageIndex

__all__ = [
    "Detail",
    "Edge",
    "Graph",
    "LineageIndex",
    "Node",
    "find",
    "find_one",
    "trace_back",
    "trace_forward",
]
