"""What the pods of nodes say about themselves: what they wait for, and why they ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBER = "batch.kubernetes.io/job-completion-index"
_WAITS = ("ContainerCreating", "PodInitializing")


Pod = Mapping[str, Any]


def number_of(pod: Pod) -> int:
    """Return the node's number: its index in the Job, which torch's runtime takes for its rank."""
    meta = pod["metadata"]
    found = {**(meta.get("annotations") or {}), **(meta.get("labels") or {})}
    return int(found.get(NUMBER, -1))


def waits_for(pod: Pod) -> str | None:
    """Return what a pod waits for, None once its containers run."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason, message = condition.get("reason"), condition.get("message")
            return f"{reason or 'not scheduled'}: {message or 'no reason given'}"
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting is not None:
            reason, message = waiting.get("reason"), waiting.get("message")
            text = reason or "container not started"
            plain = reason is None or reason in _WAITS
            return text if plain or not message else f"{text}: {message}"
    return None if status.get("phase") == "Running" else "is being started"


def bad_end(pod: Pod) -> str | None:
    """Return why a pod has ended or is about to, None if it is well or has succeeded."""
    status, node = pod.get("status") or {}, (pod.get("spec") or {}).get("nodeName")
    machine = f" on {node}" if node else ""
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return f"its pod was disrupted{machine} ({_told(condition)})"
    for container in _containers(status):
        states = (container.get("state") or {}, container.get("lastState") or {})
        for end in filter(None, (state.get("terminated") for state in states)):
            if end.get("reason") == "OOMKilled":
                return (
                    f"its container was OOMKilled{machine}: it needed more than its memory limit."
                )
            if code := end.get("exitCode"):
                return f"its container ended with {code}{machine} ({end.get('reason')})"
        if container.get("restartCount"):
            return f"its container was restarted{machine}"
    phase = status.get("phase")
    if phase in ("Failed", "Unknown"):
        return f"its pod is {phase}{machine} ({_told(status) or 'no reason given'})"
    if pod["metadata"].get("deletionTimestamp"):
        return f"its pod is being deleted{machine}"
    return None


def _told(value: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, [value.get("reason"), value.get("message")]))


def _containers(status: Mapping[str, Any]) -> list[Any]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
