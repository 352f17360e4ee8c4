"""A cluster on which things go wrong, for tests: written into the test API server."""

from __future__ import annotations

import itertools
from typing import Any

from tests.api_server import ApiServer
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.cluster.diagnose import Finding, diagnose
from vila_ops.cluster.symptoms import KINDS

RUN, KFP = "brave-river-1", "2f0c1d3e-0000-4000-8000-000000000001"
_clock = itertools.count(1)


class Cluster:
    """The test API server, as the parts of a cluster write into it."""

    def __init__(self, server: ApiServer, config: ClusterConfig) -> None:
        self.server, self.kube, self.config = server, server.kube, config

    def pod(self, task: str, status: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Add a pod of a task, newer than all before."""
        number = next(_clock)
        labels = {"vila.dev/task": task, "pipeline/runid": KFP, **more.pop("labels", {})}
        container = {
            "name": "main",
            "image": "registry.example.com/train:1",
            "resources": {"limits": more.pop("limits", {"memory": "16Gi"})},
        }
        return self.kube.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{task.replace('_', '-')}-{number}",
                    "namespace": self.config.namespace,
                    "labels": labels,
                    "creationTimestamp": f"2026-11-29T10:{number // 60:02}:{number % 60:02}Z",
                },
                "spec": {"containers": [container], **more},
                "status": status,
            }
        )

    def waiting(self, task: str, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
        state = {"waiting": {"reason": reason, "message": message}}
        return self.pod(task, containers("Pending", state), **more)

    def ended(self, task: str, code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
        state = {"terminated": {"exitCode": code, "reason": reason}}
        return self.pod(task, containers("Failed" if code else "Succeeded", state), **more)

    def unschedulable(self, task: str, message: str, **more: Any) -> dict[str, Any]:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        status = {"phase": "Pending", "conditions": [{**condition, "message": message}]}
        return self.pod(task, status, **more)

    def node(self, name: str, gpus: int = 0, ready: str = "True") -> None:
        allocatable = {"cpu": "32", "memory": "128Gi"}
        if gpus:
            allocatable["nvidia.com/gpu"] = str(gpus)
        conditions = [{"type": "Ready", "status": ready}]
        status = {"allocatable": allocatable, "conditions": conditions}
        meta = {"name": name}
        self.kube.add({"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": status})

    def trainjob(self, task: str, **status: Any) -> dict[str, Any]:
        self.kube.install("trainer.kubeflow.org")
        return self.kube.add(
            {
                "apiVersion": "trainer.kubeflow.org/v1alpha1",
                "kind": "TrainJob",
                "metadata": {
                    "name": f"vila-{task}-1",
                    "namespace": self.config.namespace,
                    "labels": {"vila.dev/run": RUN, "vila.dev/task": task},
                    "creationTimestamp": "2026-11-29T10:00:00Z",
                },
                "spec": {"runtimeRef": {"name": "vila-torch"}},
                "status": status,
            }
        )

    def workload(self, owner: dict[str, Any], *conditions: dict[str, Any]) -> None:
        place = next(place for place in self.kube.kinds if place[0] == "kueue.x-k8s.io")
        reference = {key: owner[key] for key in ("apiVersion", "kind")}
        reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
        self.kube.add(
            {
                "apiVersion": "/".join(place),
                "kind": "Workload",
                "metadata": {
                    "name": f"wl-{owner['metadata']['name']}",
                    "namespace": self.config.namespace,
                    "ownerReferences": [reference],
                },
                "spec": {"queueName": "vila"},
                "status": {"conditions": list(conditions)},
            }
        )

    def found(self) -> list[Finding]:
        return diagnose(kubernetes_api(self.config), self.config, RUN, KFP)

    def one(self) -> Finding:
        [finding] = self.found()
        assert finding.kind in KINDS
        return finding


def containers(phase: str, state: dict[str, Any], last: dict[str, Any] | None = None) -> Any:
    status = {"name": "main", "state": state, "lastState": last or {}, "restartCount": 0}
    return {"phase": phase, "containerStatuses": [status]}
