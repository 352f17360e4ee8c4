"""What a pod's own status says is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vila_ops.cluster import symptoms
from vila_ops.cluster.symptoms import Symptom

Object = Mapping[str, Any]

_IMAGE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull")
_IMAGE += ("ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed")
_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_NODE_GONE = ("DeletionByTaintManager", "DeletionByPodGC")
_KILLED = {137: "SIGKILL", 143: "SIGTERM"}


def of_pod(
    pod: Object, events: Sequence[Object], most: Mapping[str, tuple[str, int]], lost: set[str]
) -> Iterator[Symptom]:
    """Yield what is wrong with a pod; nothing for one that waits, runs or has ended well.

    `events` are the pod's own; `most` is as `symptoms.of_scheduling` takes it; `lost` are the
    nodes that are not ready.
    """
    namespace = pod["metadata"].get("namespace", "")
    task = task_of(pod)
    status = pod.get("status") or {}
    ended = list(_ended(pod, status, lost))
    if ended:
        yield ended[0]  # what ended the pod explains what its containers say
        return
    yield from _scheduling(pod, status, most, task)
    for container, state, last in _containers(pod, status):
        yield from _container(pod, container, state, last, events, namespace, task)
    for event in events:
        if event.get("reason") in ("FailedMount", "FailedAttachVolume") and not _started(status):
            yield symptoms.of_mount(event.get("message", ""), namespace)
            return


def task_of(pod: Object) -> str:
    """Return the task that a pod belongs to; "" where nothing says so."""
    return str((pod["metadata"].get("labels") or {}).get("vila.dev/task", ""))


def requests_of(pod: Object) -> dict[str, str]:
    """Return what the pod's largest container requests, by resource."""
    found: dict[str, str] = {}
    for container in pod.get("spec", {}).get("containers", []):
        resources = container.get("resources") or {}
        found |= {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: str(value) for name, value in found.items()}


def failed(pod: Object) -> bool:
    """Return whether a pod, or one of its containers, has ended badly."""
    status = pod.get("status") or {}
    return status.get("phase") == "Failed" or any(
        "terminated" in state and state["terminated"].get("exitCode")
        for _, state, _ in _containers(pod, status)
    )


def _ended(pod: Object, status: Object, lost: set[str]) -> Iterator[Symptom]:
    reason, message = status.get("reason", ""), status.get("message", "")
    where = f"tasks.{task_of(pod)}" if task_of(pod) else "defaults"
    node = pod.get("spec", {}).get("nodeName", "")
    disruption = _condition(status, "DisruptionTarget")
    if reason == "DeadlineExceeded":
        yield Symptom(
            "deadline",
            message or "the pod was active on the node longer than specified deadline",
            f"raise {where}.timeout_s; resumed, a training goes on from its last checkpoint",
        )
    if reason in ("Preempting", "Preempted") or disruption.get("reason") in (
        "PreemptionByScheduler",
        "PreemptionByKubeScheduler",
    ):
        yield Symptom(
            "preempted",
            message or disruption.get("message") or "a pod of higher priority took its place",
            f"nothing, if {where}.spot is true: it is tried again from its last checkpoint; "
            "else vila resume, or a higher priority_class",
        )
    gone = reason in ("NodeLost", "NodeShutdown", "Shutdown", "Terminated")
    if gone or disruption.get("reason") in _NODE_GONE or (node in lost and not _over(status)):
        detail = message or disruption.get("message") or "its kubelet does not report"
        yield Symptom(
            "node-lost",
            f"node {node}: {detail}",
            f"kubectl describe node {node}; with {where}.retries left the task is tried again, "
            "else vila resume: a training goes on from its last checkpoint",
        )
    if reason == "Evicted" or disruption.get("reason") in (
        "EvictionByEvictionAPI",
        "TerminationByKubelet",
    ):
        yield _evicted(message or disruption.get("message", ""), where, node)
    if reason in ("UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods"):
        yield Symptom(
            "refused",
            f"node {node} refused the pod: {reason}: {message}",
            f"kubectl describe node {node} (a device that is not healthy?); it may be tried again",
        )


def _evicted(message: str, where: str, node: str) -> Symptom:
    if "ephemeral" in message or "disk" in message.lower():
        fix = f"give the work folder room: {where}.scratch, or cache_claim in the cluster's config"
    elif "memory" in message:
        fix = f"raise {where}.memory: it is requested and limited alike"
    else:
        fix = "the node was drained: with retries left the task is tried again, else vila resume"
    return Symptom("evicted", message or f"evicted from node {node}", fix)


def _scheduling(
    pod: Object, status: Object, most: Mapping[str, tuple[str, int]], task: str
) -> Iterator[Symptom]:
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        yield symptoms.of_scheduling(scheduled.get("message", ""), requests_of(pod), most, task)


def _container(
    pod: Object,
    container: Object,
    state: Object,
    last: Object,
    events: Sequence[Object],
    namespace: str,
    task: str,
) -> Iterator[Symptom]:
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE:
        secrets = [entry["name"] for entry in pod["spec"].get("imagePullSecrets") or []]
        told = _pull_message(events) or message
        yield symptoms.of_image(reason, told, container.get("image", ""), secrets)
    elif reason in _START:
        yield symptoms.of_start(reason, message, namespace)
    elif ended := state.get("terminated") or (last.get("terminated") if waiting else None):
        yield from _exit(container, ended, f"tasks.{task}" if task else "defaults")


def _exit(container: Object, ended: Object, where: str) -> Iterator[Symptom]:
    code, reason = ended.get("exitCode", 0), ended.get("reason", "")
    if reason == "OOMKilled":
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory", "none")
        yield Symptom(
            "out-of-memory",
            f"container {container['name']}: OOMKilled (exit code {code}), memory limit {limit}",
            f"raise {where}.memory, or make the task smaller (vila plan says what it needs)",
        )
    elif reason in ("StartError", "ContainerCannotRun"):
        yield Symptom(
            "container-start",
            f"container {container['name']}: {reason}: {ended.get('message', '')}",
            "the image must hold the command, and its user be 10001",
        )
    elif code in _KILLED:
        yield Symptom(
            "killed",
            f"container {container['name']}: ended by {_KILLED[code]} (exit code {code})",
            "stopped by somebody, or out of memory in a child: kubectl describe the pod, and "
            f"raise {where}.memory if the node's log has an OOM kill",
        )


def _containers(pod: Object, status: Object) -> Iterator[tuple[Object, Object, Object]]:
    """Yield (spec, state, last state) of every container, those that start first included."""
    spec = pod.get("spec") or {}
    for kind, key in (("initContainers", "init"), ("containers", "")):
        named = {entry["name"]: entry for entry in spec.get(kind) or []}
        name = f"{key}ContainerStatuses" if key else "containerStatuses"
        for found in status.get(name) or []:
            container = named.get(found["name"], {"name": found["name"]})
            yield container, found.get("state") or {}, found.get("lastState") or {}


def _pull_message(events: Sequence[Object]) -> str:
    """Return what the last failed pull said: the status soon says only that it backs off."""
    pulls = [
        event.get("message", "")
        for event in events
        if event.get("reason") == "Failed" and "pull image" in event.get("message", "")
    ]
    return pulls[-1] if pulls else ""


def _condition(status: Object, kind: str) -> Object:
    for condition in status.get("conditions") or []:
        if condition.get("type") == kind and (
            kind == "PodScheduled" or condition.get("status") == "True"
        ):
            return condition
    return {}


def _started(status: Object) -> bool:
    return any(
        "running" in (found.get("state") or {}) or "terminated" in (found.get("state") or {})
        for found in status.get("containerStatuses") or []
    )


def _over(status: Object) -> bool:
    return status.get("phase") in ("Succeeded", "Failed")
