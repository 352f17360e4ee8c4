"""Why a task of a run does not start, or was ended, on a cluster: what its objects say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from components.kube.client import Patience
from components.kube.errors import (
    ClusterError,
    KindMissing,
    NoAnswer,
    NotAllowed,
    NotAuthenticated,
)
from vila_core.errors import UserError, VilaError
from vila_ops.cluster import pods as pods_
from vila_ops.cluster import symptoms
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.cluster.labels import TASK
from vila_ops.cluster.seen import JOBSET, Object, Seen, labels_of
from vila_ops.cluster.symptoms import Symptom

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_VAGUE = ("killed", "trainjob", "failed")
"""Kinds that are left out where another finding says why, the most telling first."""
_SHORT = Patience(connect_s=5, read_s=15, tries=2)
"""Somebody waits for the answer."""
_MOST_LOGS = 8
_SLOW_S = 120


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


def examine(config: ClusterConfig, run_id: str, kfp_run: str = "") -> list[Finding]:
    """Return what `diagnose` finds; a cluster that can't be asked is a finding, not an error."""
    try:
        return diagnose(kubernetes_api(config, _SHORT), config, run_id, kfp_run)
    except VilaError as error:
        return [finding_of(error)]


def finding_of(error: VilaError, task: str = "") -> Finding:
    """Return an error of the cluster (or of its kubeconfig) as a finding."""
    message, _, fix = str(error).partition("; fix: ")
    if isinstance(error, NotAuthenticated):
        kind = "credentials"
    elif isinstance(error, NotAllowed):
        kind = "rights"
    elif isinstance(error, KindMissing):
        kind = "crd-missing"
    elif isinstance(error, NoAnswer | ClusterError):
        kind = "clock-skew" if "clock" in message else "api-unreachable"
    else:
        kind = "context" if isinstance(error, UserError) else "api-unreachable"
    return Finding(task, kind, message, fix.rstrip(".") or "vila cluster check")


def diagnose(
    api: ApiClient, config: ClusterConfig, run_id: str, kfp_run: str = ""
) -> list[Finding]:
    """Return what is wrong now with a run's pods, TrainJobs and workloads; empty: nothing is.

    Attempts that a later one has replaced are left out. `kfp_run` is KFP's id of the run; without
    it the run is found by its name. Raises ClusterError when the API can't be asked.
    """
    seen = Seen(api, config.namespace, run_id, kfp_run)
    found: list[Finding] = []
    for pod in seen.pods:
        task = pods_.task_of(pod)
        events = seen.events_of(pod)
        for symptom in pods_.of_pod(pod, events, seen.most, seen.lost):
            found.append(_finding(task, symptom))
    found += _trainjobs(seen)
    found += _workflows(seen)
    found += _workloads(seen)
    found += _logs(seen, found)
    return _distinct(found)


def _finding(task: str, symptom: Symptom) -> Finding:
    return Finding(task, symptom.kind, symptom.message, symptom.fix)


def _distinct(found: Sequence[Finding]) -> list[Finding]:
    """Keep one finding of a task and kind, and the vague ones only where nothing says more."""
    told = {(each.task, each.kind): each for each in reversed(found)}
    kept = []
    for each in told.values():
        kinds = {kind for task, kind in told if task == each.task}
        vague = [kind for kind in _VAGUE if kind in kinds]
        if each.kind not in vague or (kinds <= set(vague) and each.kind == vague[0]):
            kept.append(each)
    return sorted(kept, key=found.index)


def _trainjobs(seen: Seen) -> Iterator[Finding]:
    for job in seen.trainjobs:
        name, task = job["metadata"]["name"], labels_of(job).get(TASK, "")
        status = job.get("status") or {}
        if any(labels_of(pod).get(JOBSET) == name for pod in seen.pods):
            pass
        elif refusals := [
            event
            for kind in ("TrainJob", "JobSet", "Job")
            for event in seen.events_below(kind, name)
            if event.get("type") == "Warning" and event.get("message")
        ]:
            message = refusals[-1]["message"]
            yield _finding(task, symptoms.of_refusal(message, seen.namespace, task))
        elif not status.get("conditions") and _age_s(job) > _SLOW_S:
            yield Finding(
                task,
                "trainjob",
                f"TrainJob {name} has no pods after {_age_s(job):.0f} s, and nothing says why",
                "its controller may not run: kubectl -n kubeflow-system get pods",
            )
        for condition in status.get("conditions") or []:
            if condition.get("type") == "Failed" and condition.get("status") == "True":
                yield Finding(
                    task,
                    "trainjob",
                    f"TrainJob {name}: {condition.get('reason', '')}: "
                    f"{condition.get('message', '')}",
                    f"kubectl -n {seen.namespace} describe trainjob {name}; with nodes.restarts "
                    "left it starts again from its last checkpoint, else vila resume",
                )


def _workflows(seen: Seen) -> Iterator[Finding]:
    """Yield what Argo could not make: such a task has no pod that could tell."""
    with_pod = {pods_.task_of(pod) for pod in seen.pods}
    for workflow in seen.workflows:
        for event in seen.events_of(workflow):
            if "forbidden" in event.get("message", "") and event.get("type") == "Warning":
                symptom = symptoms.of_refusal(event["message"], seen.namespace, "")
                yield _finding("", symptom)
        nodes = (workflow.get("status") or {}).get("nodes") or {}
        for node in nodes.values():
            message = node.get("message") or ""
            task = _task_of_node(node, nodes)
            if node.get("type") != "Pod" or not message or task in with_pod:
                continue
            if "forbidden" in message or "not found" in message or "PriorityClass" in message:
                yield _finding(task, symptoms.of_refusal(message, seen.namespace, task))
            elif node.get("phase") in ("Failed", "Error"):
                kind = "out-of-memory" if "OOMKilled" in message else "failed"
                where = f"tasks.{task}.memory" if kind == "out-of-memory" else ""
                fix = f"raise {where}" if where else "vila logs shows what the task said"
                yield Finding(task, kind, message, fix)


def _task_of_node(node: Object, nodes: Mapping[str, Object]) -> str:
    """Return the KFP task of one of Argo's nodes: the nearest around it that has a task's name."""
    for _ in range(20):
        name = str(node.get("displayName", ""))
        if node.get("type") != "Pod" or not name.startswith(("executor", "driver")):
            return name.removesuffix("-driver")
        node = nodes.get(str(node.get("boundaryID")), {})
    return ""


def _workloads(seen: Seen) -> Iterator[Finding]:
    owners = {
        each["metadata"]["uid"]: labels_of(each).get(TASK, "")
        for each in itertools.chain(seen.pods, seen.trainjobs)
    }
    gated = [pod for pod in seen.pods if _is_gated(pod)]
    suspended = [job for job in seen.trainjobs if job.get("spec", {}).get("suspend")]
    if not gated and not suspended and not seen.trainjobs:
        return
    told = set()
    for workload in seen.workloads():
        uids = [owner["uid"] for owner in workload["metadata"].get("ownerReferences") or []]
        for uid in [uid for uid in uids if uid in owners]:
            told.add(uid)
            yield from _queued(workload, owners[uid], seen.namespace)
    for pod in gated:
        if pod["metadata"]["uid"] not in told:
            queue = labels_of(pod).get("kueue.x-k8s.io/queue-name", "")
            yield Finding(
                pods_.task_of(pod),
                "queued",
                f"the pod is held back for the queue '{queue}', and Kueue has made no workload",
                "kubectl -n kueue-system get pods: is Kueue running, with its integration 'pod'?",
            )


def _queued(workload: Object, task: str, namespace: str) -> Iterator[Finding]:
    status = workload.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    if conditions.get("Admitted", {}).get("status") == "True":
        return
    if conditions.get("Finished", {}).get("status") == "True":
        return
    evicted, quota = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    if evicted.get("status") == "True" and "Preempt" in evicted.get("reason", ""):
        yield Finding(
            task,
            "preempted",
            evicted.get("message", ""),
            "nothing: Kueue starts it again when there is room, from its last checkpoint",
        )
        return
    message = quota.get("message") or "Kueue has not admitted it yet"
    queue = (workload.get("spec") or {}).get("queueName", "")
    if "doesn't exist" in message or "inactive" in message or "not found" in message:
        fix = f"vila cluster apply makes it; kubectl -n {namespace} get localqueue,clusterqueue"
    elif "maximum capacity" in message:
        fix = "it will never fit: ask for less, or raise nominalQuota of the ClusterQueue"
    else:
        fix = f"wait for others in the queue '{queue}' to end: kubectl -n {namespace} get workloads"
    yield Finding(task, "queued", message, fix)


def _logs(seen: Seen, found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield what failed pods without an explanation wrote last: a broken store is only there."""
    explained = {each.task for each in found if each.kind not in _VAGUE}
    silent = [pod for pod in seen.pods if pods_.failed(pod) and pods_.task_of(pod) not in explained]
    for pod in silent[:_MOST_LOGS]:
        container, code = _failed_container(pod)
        lines = seen.log_end(pod, container)
        task = pods_.task_of(pod)
        symptom = symptoms.of_log(lines, seen.namespace)
        if symptom is not None:
            yield _finding(task, symptom)
            continue
        errors = [line for line in lines if line.strip()]
        last = next((line for line in reversed(errors) if line.startswith("error: ")), None)
        said = last or (errors[-1] if errors else "and its log is gone")
        name = pod["metadata"]["name"]
        yield Finding(
            task,
            "failed",
            f"exit code {code}: {' '.join(said.split())[:400]}",
            f"vila logs, or kubectl -n {seen.namespace} logs {name} -c {container}",
        )


def _failed_container(pod: Object) -> tuple[str, int]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    # Argo's own container fails with the task's, and has nothing to tell.
    for found in sorted(statuses, key=lambda each: each["name"] != "main"):
        ended = (found.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return found["name"], int(ended["exitCode"])
    return pod["spec"]["containers"][0]["name"], 1


def _is_gated(pod: Object) -> bool:
    return any(
        each.get("type") == "PodScheduled" and each.get("reason") == "SchedulingGated"
        for each in (pod.get("status") or {}).get("conditions") or []
    )


def _age_s(found: Object) -> float:
    text = str(found["metadata"].get("creationTimestamp") or "")
    try:
        made = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return (datetime.now(UTC) - made).total_seconds()
