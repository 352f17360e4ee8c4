"""Whether the cluster's nodes, quotas and limits have room for what tasks ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.kube import objects
from vila_ops.cluster.asked import Asked
from vila_ops.cluster.config import ClusterConfig, TaskPlace
from vila_ops.cluster.quantities import amount, shown
from vila_ops.doctor import Check

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = Mapping[str, Any]
_HARD = {"cpu": ("cpu", "requests.cpu", "limits.cpu")}
_HARD["memory"] = ("memory", "requests.memory", "limits.memory")


def nodes(api: ApiClient, asked: Sequence[Asked]) -> Iterator[Check]:
    """Yield for each place whether there are nodes that could take such a pod when empty."""
    every = objects.listed(api, objects.address("v1", "nodes"))
    ready = [node for node in every if _is_usable(node)]
    if len(ready) < len(every):
        away = sorted({_name(node) for node in every} - {_name(node) for node in ready})
        yield Check(
            "nodes",
            "warning",
            f"{len(ready)} of {len(every)} take pods; not ready or cordoned: {', '.join(away[:5])}",
            "kubectl describe node, kubectl uncordon",
        )
    else:
        yield Check("nodes", "ok" if every else "error", f"{len(every)} ready", "")
    for group in asked:
        yield _place(group, ready)


def _place(group: Asked, ready: Sequence[Object]) -> Check:
    name = "room"
    needs = group.needs()
    told = ", ".join(f"{shown(key, value)} {_short(key)}" for key, value in needs.items())
    told = f"{group.title}: {told}"
    wanted = group.selector()
    labelled = [node for node in ready if _has(node, wanted)]
    tolerated = [node for node in labelled if _tolerates(group.place, node)]
    fit = [node for node in tolerated if _fits(node, needs)]
    if len(fit) >= group.nodes:
        return Check(name, "ok", f"{told}: fits on {len(fit)} of {len(ready)}")
    key = f"tasks.{group.tasks[0]}" if group.tasks[0] != "defaults" else "defaults"
    if fit:
        return Check(
            name,
            "error",
            f"{told} on each of {group.nodes} nodes: fits on {len(fit)} only",
            f"add nodes, or set {group.tasks[0]}.train.nodes={len(fit)} in the recipe",
        )
    if not labelled:
        text = ", ".join(f"{label}={value}" for label, value in wanted.items())
        products = sorted(
            {_labels(node).get("nvidia.com/gpu.product", "") for node in ready} - {""}
        )
        seen = f" (gpu.product is there: {', '.join(products)})" if products else ""
        return Check(
            name,
            "error",
            f"{group.title}: no node has the labels {text}{seen}",
            f"kubectl label node NODE {text.replace(', ', ' ')}, or change {key}.node_selector "
            "or gpu.product",
        )
    if not tolerated:
        taints = sorted({taint["key"] for node in labelled for taint in _taints(node)})
        return Check(
            name,
            "error",
            f"{group.title}: all {len(labelled)} nodes are tainted: {', '.join(taints)}",
            f"add to {key}.tolerations: {{key: {taints[0]}}}",
        )
    devices = {resource: value for resource, value in needs.items() if "/" in resource}
    usable = [node for node in tolerated if _fits(node, devices)] or tolerated
    fix = _more(key, needs, usable)
    return Check(name, "error", f"{told}: {_shortage(usable, needs)}", fix)


def _shortage(usable: Sequence[Object], needs: Mapping[str, float]) -> str:
    """Say of which resource no single node has enough."""
    short = []
    for resource, value in needs.items():
        most = max(_allocatable(node, resource) for node in usable)
        if most < value:
            short.append(f"the most that a node has is {shown(resource, most)} {_short(resource)}")
    return "; ".join(short) or "no node has all of it together"


def _more(key: str, needs: Mapping[str, float], usable: Sequence[Object]) -> str:
    for resource, value in needs.items():
        most = max(_allocatable(node, resource) for node in usable)
        if "/" in resource and not most:
            return f"install the device plugin that offers {resource} (NVIDIA: the GPU operator)"
        if "/" in resource and most < value:
            return f"set {key}.gpu.count to at most {most:.0f}, or add larger nodes"
        if most < value:
            return f"lower {key}.{resource}, or add larger nodes"
    return f"lower {key}.cpu or {key}.memory, or add larger nodes"


def quotas(api: ApiClient, config: ClusterConfig, asked: Sequence[Asked]) -> Iterator[Check]:
    """Yield for each quota and limit of the namespace whether the tasks fit into it one by one."""
    where = config.namespace
    found = objects.listed(api, objects.address("v1", "resourcequotas", where))
    ranges = objects.listed(api, objects.address("v1", "limitranges", where))
    if not found and not ranges:
        yield Check("quotas", "ok", f"none in {where}")
    for quota in found:
        yield _quota(quota, asked, where)
    for limits in ranges:
        yield from _limits(limits, asked, where)


def _quota(quota: Object, asked: Sequence[Asked], where: str) -> Check:
    name = "quota"
    hard = (quota.get("status") or {}).get("hard") or quota["spec"].get("hard") or {}
    used = (quota.get("status") or {}).get("used") or {}
    classes = _classes(quota)
    never, later = [], []
    for group in asked:
        if classes is not None and group.place.priority_class not in classes:
            continue
        for key, value in _demands(group).items():
            if key not in hard:
                continue
            limit, now = amount(hard[key]), amount(used.get(key, 0))
            text = f"{group.title}: {shown(key, value)} of {shown(key, limit)} {key}"
            if value > limit:
                never.append(text)
            elif value > limit - now:
                later.append(f"{text}, {shown(key, now)} in use")
    if never:
        return Check(
            name,
            "error",
            f"{_name(quota)}: too small: {'; '.join(never)}",
            f"kubectl -n {where} edit resourcequota {_name(quota)}, or ask for less",
        )
    if later:
        return Check(
            name, "warning", f"{_name(quota)}: tasks must wait: {'; '.join(later)}", "wait"
        )
    allowed = ", ".join(f"{key} {value}" for key, value in list(hard.items())[:4])
    return Check(name, "ok", f"{_name(quota)}: {allowed}")


def _demands(group: Asked) -> dict[str, float]:
    """Return what a task takes of each key that a quota may have."""
    found: dict[str, float] = {"pods": float(group.nodes)}
    for resource, value in group.needs().items():
        for key in _HARD.get(resource, (f"requests.{resource}",)):
            found[key] = value * group.nodes
    if group.nodes > 1:
        found |= {"pods": group.nodes + 1.0, "count/trainjobs.trainer.kubeflow.org": 1.0}
    return found


def _classes(quota: Object) -> set[str] | None:
    """Return the priority classes that a quota is for; None for all pods."""
    terms = (quota["spec"].get("scopeSelector") or {}).get("matchExpressions") or []
    named = [
        set(term.get("values") or []) for term in terms if term["scopeName"] == "PriorityClass"
    ]
    return set.intersection(*named) if named else None


def _limits(limits: Object, asked: Sequence[Asked], where: str) -> Iterator[Check]:
    name = "limits"
    over = []
    for limit in limits["spec"].get("limits") or []:
        if limit.get("type") not in ("Container", "Pod"):
            continue
        for group in asked:
            for resource, value in group.needs().items():
                most = (limit.get("max") or {}).get(resource)
                if most is not None and value > amount(most):
                    over.append(f"{group.title}: {shown(resource, value)} {_short(resource)}")
    if over:
        fix = f"kubectl -n {where} edit limitrange {_name(limits)}, or ask for less"
        yield Check(
            name,
            "error",
            f"{_name(limits)}: more than a container may have: {'; '.join(over)}",
            fix,
        )
    else:
        yield Check(name, "ok", f"{_name(limits)}: every task is within")


def _fits(node: Object, needs: Mapping[str, float]) -> bool:
    return all(_allocatable(node, resource) >= value for resource, value in needs.items())


def _allocatable(node: Object, resource: str) -> float:
    return amount(((node.get("status") or {}).get("allocatable") or {}).get(resource, 0))


def _has(node: Object, wanted: Mapping[str, str]) -> bool:
    return all(_labels(node).get(label) == value for label, value in wanted.items())


def _tolerates(place: TaskPlace, node: Object) -> bool:
    return all(
        any(
            toleration.key == taint["key"]
            and toleration.effect in (None, taint["effect"])
            and (toleration.operator == "Exists" or toleration.value == taint.get("value"))
            for toleration in place.tolerations
        )
        for taint in _taints(node)
    )


def _taints(node: Object) -> list[Object]:
    """Return the taints that keep pods away."""
    taints = (node.get("spec") or {}).get("taints") or []
    return [taint for taint in taints if taint.get("effect") != "PreferNoSchedule"]


def _is_usable(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and not (node.get("spec") or {}).get("unschedulable")


def _labels(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _name(found: Object) -> str:
    return str(found["metadata"]["name"])


def _short(resource: str) -> str:
    return "memory" if resource == "memory" else resource
