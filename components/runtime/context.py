"""What every task of a run is told, as one JSON string: the store, the run, the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from vila_core.config import Frozen


class Tracking(Frozen):
    """Where metrics go beside the run record."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str = "vila"


class TrainJobPlace(Frozen):
    """Where a task that trains on several nodes gets them: a TrainJob of Kubeflow Trainer v2.

    What shapes a node's pod (`pod`) is a partial PodSpec as Kubernetes writes it: nodeSelector,
    tolerations, volumes and the like; `resources` are requests and limits of one node.
    `service_account` is that of the nodes' pods, which need no right in the cluster.
    """

    namespace: str
    runtime: str
    image: str
    service_account: str
    restarts: int = Field(default=3, ge=0, description="after a node was lost")
    wait_s: int = Field(default=3600, gt=0, description="for pods, outside of a queue")
    queue: str | None = None
    resources: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    env: tuple[Mapping[str, Any], ...] = Field(default=(), description="EnvVars, secrets by name")
    pod: Mapping[str, Any] = Field(default_factory=dict)
    volume_mounts: tuple[Mapping[str, Any], ...] = ()


class Context(Frozen):
    """The run that a task belongs to. `driver_pid` is None where another engine drives it.

    With `schedule` the context is of all runs that it triggers: `run_id` is their common name,
    and each task finds out which of them it belongs to (`components.runtime.schedules`).

    `guarded` says that the task has process ids of its own, in a container whose first process
    watches the driver; `driver_pid` then means nothing to the task itself.

    `nodes` says by task where its nodes come from; a task that is not there starts them as
    processes on its own machine.
    """

    store: str
    run_id: str
    driver_pid: int | None = None
    guarded: bool = False
    recipe: str = ""
    schedule: str | None = None
    tracking: Tracking = Tracking()
    nodes: Mapping[str, TrainJobPlace] = Field(default_factory=dict)

    @field_validator("tracking", mode="before")
    @classmethod
    def _mode(cls, value: object) -> object:
        return {"wandb": value} if isinstance(value, str) else value

    @classmethod
    def parse(cls, text: str) -> Context:
        """Read the JSON text. Raises pydantic's ValidationError: only the driver writes it."""
        return cls.model_validate_json(text)
