"""What a run has on a cluster, read once: pods, TrainJobs, workflows, events, nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.kube import objects
from components.kube.errors import Absent, ClusterError, NotAllowed
from vila_ops.cluster.labels import KFP_RUN, RUN, TASK

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = dict[str, Any]

JOBSET = "jobset.sigs.k8s.io/jobset-name"
_TRAINJOBS = "trainer.kubeflow.org/v1alpha1"
_WORKFLOWS = "argoproj.io/v1alpha1"
_RUN_NAME = "pipelines.kubeflow.org/run_name"
_INDEX = "batch.kubernetes.io/job-completion-index"


class Seen:
    """What a run has on the cluster, read once."""

    def __init__(self, api: ApiClient, namespace: str, run_id: str, kfp_run: str) -> None:
        self.api, self.namespace = api, namespace
        self.trainjobs = self._newest_trainjobs(run_id)
        self.workflows = [
            each
            for each in self._maybe(objects.address(_WORKFLOWS, "workflows", namespace))
            if _is_of(each, run_id, kfp_run)
        ]
        runs = {kfp_run} | {labels_of(each).get(KFP_RUN, "") for each in self.workflows}
        path = objects.address("v1", "pods", namespace)
        every = {
            pod["metadata"]["uid"]: pod
            for label, value in [(RUN, run_id), *((KFP_RUN, run) for run in sorted(runs) if run)]
            for pod in objects.listed(api, path, selector=f"{label}={value}")
        }
        self.pods = self._current(list(every.values()))
        waits = any(pod.get("status", {}).get("phase") != "Succeeded" for pod in self.pods)
        asked = waits or bool(self.trainjobs) or not self.pods
        self._events = self._by_object() if asked else {}
        nodes = self._maybe(objects.address("v1", "nodes")) if waits else []
        self.most = _most(nodes)
        self.lost = {each["metadata"]["name"] for each in nodes if not _is_ready(each)}

    def events_of(self, found: Object) -> list[Object]:
        """Return the events about an object, the oldest first."""
        return self._events.get((found.get("kind") or "Pod", found["metadata"]["name"]), [])

    def events_below(self, kind: str, prefix: str) -> list[Object]:
        """Return the events about objects of a kind whose names begin so."""
        return [
            event
            for (its_kind, name), events in self._events.items()
            if its_kind == kind and name.startswith(prefix)
            for event in events
        ]

    def workloads(self) -> list[Object]:
        """Return Kueue's workloads in the namespace, in the version that is served."""
        version = objects.served(self.api, "kueue.x-k8s.io")
        if version is None:
            return []
        return self._maybe(objects.address(version, "workloads", self.namespace))

    def log_end(self, pod: Object, container: str) -> list[str]:
        """Return the last lines of a container's log; none where there is none."""
        path = objects.address("v1", "pods", self.namespace, pod["metadata"]["name"])
        query = [("container", container), ("tailLines", 80)]
        try:
            return list(objects.lines(self.api, f"{path}/log", query=query, silence_s=10))
        except ClusterError:
            return []

    def _newest_trainjobs(self, run_id: str) -> list[Object]:
        path = objects.address(_TRAINJOBS, "trainjobs", self.namespace)
        newest: dict[str, Object] = {}
        for job in sorted(self._maybe(path, f"{RUN}={run_id}"), key=_created):
            newest[labels_of(job).get(TASK) or str(job["metadata"]["name"])] = job
        return list(newest.values())

    def _current(self, every: list[Object]) -> list[Object]:
        """Return the pods that no later attempt has replaced."""
        jobs = {job["metadata"]["name"] for job in self.trainjobs}
        newest: dict[tuple[str, str, str], Object] = {}
        for pod in sorted(every, key=_created):
            labels = labels_of(pod)
            jobset = labels.get(JOBSET, "")
            if jobset and jobs and jobset not in jobs:
                continue
            task = labels.get(TASK) or pod["metadata"]["name"]
            newest[task, jobset, labels.get(_INDEX, "")] = pod
        return list(newest.values())

    def _by_object(self) -> dict[tuple[str, str], list[Object]]:
        found: dict[tuple[str, str], list[Object]] = defaultdict(list)
        events = self._maybe(objects.address("v1", "events", self.namespace))
        for event in sorted(events, key=_when):
            about = event.get("involvedObject") or {}
            found[about.get("kind", ""), about.get("name", "")].append(event)
        return found

    def _maybe(self, path: str, selector: str = "") -> list[Object]:
        """List what may be missing or forbidden without being what is wrong."""
        try:
            return objects.listed(self.api, path, selector=selector)
        except (Absent, NotAllowed):
            return []


def _is_of(workflow: Object, run_id: str, kfp_run: str) -> bool:
    labels = labels_of(workflow)
    name = (workflow["metadata"].get("annotations") or {}).get(_RUN_NAME, "")
    return (
        labels.get(RUN) == run_id
        or name == run_id
        or (bool(kfp_run) and (labels.get(KFP_RUN) == kfp_run))
    )


def _is_ready(node: Object) -> bool:
    return any(
        each.get("type") == "Ready" and each.get("status") == "True"
        for each in (node.get("status") or {}).get("conditions") or []
    )


def _most(nodes: Sequence[Object]) -> dict[str, tuple[str, int]]:
    """Return by extended resource the node that has most of it, and how much; 0 where none has."""
    most: dict[str, tuple[str, int]] = defaultdict(lambda: ("", 0))
    for node in nodes:
        most["nodes"] = (node["metadata"]["name"], len(nodes))
        for name, amount in ((node.get("status") or {}).get("allocatable") or {}).items():
            if "/" in name and str(amount).isdigit() and int(amount) > most[name][1]:
                most[name] = (node["metadata"]["name"], int(amount))
    return dict(most)


def labels_of(found: Object) -> dict[str, str]:
    """Return an object's labels."""
    return found["metadata"].get("labels") or {}


def _created(found: Object) -> tuple[str, int]:
    meta = found["metadata"]
    version = str(meta.get("resourceVersion", ""))
    return str(meta.get("creationTimestamp", "")), int(version) if version.isdigit() else 0


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
