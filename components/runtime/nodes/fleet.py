"""What a task's nodes are to the step: the call that they run, and a fleet that starts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from vila_core.store import ArtifactRef

LEASE_SECONDS = 20.0
"""How often the step shows that it is there; a node that sees nothing new for long ends itself."""
PARENT = "VILA_NODE_PARENT"
"""Variable with the process id of the step, for a node on the same machine: it ends with it."""


@dataclass(frozen=True)
class State:
    """How the nodes of one start are. `lost` says why, by node; `final`: no start would help."""

    status: Literal["waiting", "queued", "running", "ended", "lost"]
    reason: str = ""
    lost: Mapping[int, str] = field(default_factory=dict)
    final: bool = False


class Fleet(Protocol):
    """Where the nodes of a task come from. Errors are VilaErrors."""

    wait_s: float  # for nodes that do not come; time in a queue does not count
    pause_s: float  # before nodes are started again

    def start(self, number: int, place: str) -> str:
        """Start the nodes for the `number`-th time, on the call at `place`; return their name."""
        ...

    def state(self) -> State:
        """Return how they are. Raises Stopped when somebody else has ended them."""
        ...

    def last_words(self, number: int) -> list[str]:
        """Return what a node printed last that may not have reached the store."""
        ...

    def stop(self) -> None:
        """End all of them and return when they are gone; no error when there are none."""
        ...


@dataclass(frozen=True)
class NodesCall:
    """What the nodes run: a stage's task, its inputs by digest."""

    task: str
    stage: str
    module: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    key: str
    code: str  # digest of the code that the step has; a node must have the same


@dataclass(frozen=True)
class NodesResult:
    """What the first node has published, and the final metrics."""

    outputs: Mapping[str, ArtifactRef]
    metrics: Mapping[str, float | None]
