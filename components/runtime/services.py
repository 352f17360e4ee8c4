"""What a stage of the platform itself (the registry) may use beside its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.runtime.cache import TaskKey
from vila_core.store import ArtifactRef, Store


@dataclass(frozen=True)
class StageServices:
    """Given to stages whose `run` has a parameter `services`."""

    store: Store
    run_id: str
    task: str
    key: TaskKey
    inputs: Mapping[str, ArtifactRef]
