"""What the pods of nodes say about themselves: what they wait for, and why they ended."""

from __future__ import annotations

from typing import Any

NUMBER = "batch.kubernetes.io/job-completion-index"
_WAITS = ("ContainerCreating", "PodInitializing")


def number_of(pod: Any) -> int:
    """Return the node's number: its index in the Job, which torch's runtime takes for its rank."""
    found = {**(pod.metadata.annotations or {}), **(pod.metadata.labels or {})}
    return int(found.get(NUMBER, -1))


def waits_for(pod: Any) -> str | None:
    """Return what a pod waits for, None once its containers run."""
    if pod.status.phase in ("Succeeded", "Failed"):
        return None
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return (
                f"{condition.reason or 'not scheduled'}: {condition.message or 'no reason given'}"
            )
    for container in _containers(pod):
        waiting = container.state.waiting if container.state else None
        if waiting is not None:
            plain = waiting.reason in _WAITS or waiting.reason is None
            text = waiting.reason or "container not started"
            return text if plain or not waiting.message else f"{text}: {waiting.message}"
    return None if pod.status.phase == "Running" else "is being started"


def bad_end(pod: Any) -> str | None:
    """Return why a pod has ended or is about to, None if it is well or has succeeded."""
    machine = f" on {pod.spec.node_name}" if pod.spec and pod.spec.node_name else ""
    for condition in pod.status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            text = ": ".join(filter(None, [condition.reason, condition.message]))
            return f"its pod was disrupted{machine} ({text})"
    for container in _containers(pod):
        states = (container.state, container.last_state)
        ends = [state.terminated for state in states if state is not None and state.terminated]
        for end in ends:
            if end.reason == "OOMKilled":
                return (
                    f"its container was OOMKilled{machine}: it needed more than its memory limit."
                )
            if end.exit_code:
                return f"its container ended with {end.exit_code}{machine} ({end.reason})"
        if container.restart_count:
            return f"its container was restarted{machine}"
    if pod.status.phase in ("Failed", "Unknown"):
        text = ": ".join(filter(None, [pod.status.reason, pod.status.message]))
        return f"its pod is {pod.status.phase}{machine} ({text or 'no reason given'})"
    if pod.metadata.deletion_timestamp is not None:
        return f"its pod is being deleted{machine}"
    return None


def _containers(pod: Any) -> list[Any]:
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
