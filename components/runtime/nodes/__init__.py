"""A task on several nodes: who starts them, what runs on each, how they tell the step."""

from components.runtime.nodes.fleet import NodesCall
from components.runtime.nodes.follow import fleet_of, run_on_nodes

__all__ = ["NodesCall", "fleet_of", "run_on_nodes"]
