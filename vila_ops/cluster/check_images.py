"""Whether nodes can pull the images: by what they hold already, else by a pod that does nothing."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.kube import objects
from components.kube.errors import ClusterError, NotAllowed
from vila_ops.cluster import pods
from vila_ops.cluster.asked import Asked
from vila_ops.cluster.config import ClusterConfig
from vila_ops.doctor import Check

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = dict[str, Any]
LABEL = "vila.dev/check"
_POLL_S = 1.0
_USER = 10001


def images(
    api: ApiClient,
    config: ClusterConfig,
    asked: Sequence[Asked],
    *,
    pull: bool,
    limit_s: float,
    poll_s: float = _POLL_S,
) -> Iterator[Check]:
    """Yield for each image whether nodes have it, or with `pull` whether one can pull it.

    A pull is tried by a pod on a node that the task could use; it is removed at the end, also
    after Ctrl-C. What an earlier check has left is removed first.
    """
    held = _held(api)
    todo: dict[str, list[str]] = {}
    for role, image in config.images.items():
        count = sum(_same(image, names) for names in held)
        moving = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
        if count and (config.image_pull_policy != "Always"):
            note = " (a moving tag: nodes may hold different ones; name a version)"
            yield Check(
                f"image {role}",
                "warning" if moving and config.image_pull_policy == "IfNotPresent" else "ok",
                f"{image}: on {count} of {len(held)} nodes{note if moving else ''}",
                "images: …:VERSION or …@sha256:…" if moving else "",
            )
        elif config.image_pull_policy == "Never":
            fix = f"load it onto every node: kind load docker-image {image}, or ctr images import"
            yield Check(f"image {role}", "error", f"{image}: is on no node, and never pulled", fix)
        else:
            todo.setdefault(image, []).append(role)
    if not todo:
        return
    if not pull:
        for image, roles in todo.items():
            detail = f"{image}: is on no node; whether it can be pulled was not tried (--no-pull)"
            yield Check(f"image {'/'.join(roles)}", "unknown", detail, "without --no-pull")
        return
    yield from _pulled(api, config, asked, todo, limit_s, poll_s)


def _pulled(
    api: ApiClient,
    config: ClusterConfig,
    asked: Sequence[Asked],
    todo: Mapping[str, Sequence[str]],
    limit_s: float,
    poll_s: float,
) -> Iterator[Check]:
    where = objects.address("v1", "pods", config.namespace)
    for old in objects.listed(api, where, selector=LABEL):
        objects.delete(api, f"{where}/{old['metadata']['name']}")
    made: dict[str, str] = {}
    try:
        for image, roles in todo.items():
            name = f"vila-check-{roles[0]}-{uuid.uuid4().hex[:8]}"
            title = f"image {'/'.join(roles)}"
            try:
                objects.create(api, where, _pod(name, image, roles, config, asked))
                made[name] = image
            except ClusterError as error:
                level = "unknown" if isinstance(error, NotAllowed) else "error"
                detail = f"{image}: no pod could be made to try it: {error}"
                yield Check(title, level, detail, "see the rights above")
        deadline = time.monotonic() + limit_s
        open_ = dict(made)
        while open_:
            for name in list(open_):
                title, image = f"image {'/'.join(todo[open_[name]])}", open_[name]
                check = _state(api, where, name, title, image, config.namespace)
                if check is None and time.monotonic() > deadline:
                    check = Check(
                        title,
                        "warning",
                        f"{image}: is still being pulled after {limit_s:.0f} s",
                        "check again later, or --pull-limit SECONDS",
                    )
                if check is not None:
                    del open_[name]
                    yield check
            if open_:
                time.sleep(poll_s)
    finally:
        for name in made:
            _forget(lambda name=name: objects.delete(api, f"{where}/{name}", grace_s=0))


def _state(
    api: ApiClient, where: str, name: str, title: str, image: str, namespace: str
) -> Check | None:
    """Return what became of a probe pod; None while it is on its way."""
    pod = objects.find(api, f"{where}/{name}")
    if pod is None:
        return Check(title, "unknown", f"{image}: its pod was removed by somebody", "check again")
    status = pod.get("status") or {}
    node = pod["spec"].get("nodeName", "")
    for found in status.get("containerStatuses") or []:
        if found.get("imageID") or "terminated" in found["state"] or "running" in found["state"]:
            return Check(title, "ok", f"{image}: pulled on node {node}")
    events = objects.listed(
        api,
        objects.address("v1", "events", namespace),
        field_selector=f"involvedObject.name={name}",
    )
    for symptom in pods.of_pod(pod, events, {}, set()):
        if symptom.kind in ("unschedulable", "unschedulable-gpu", "queued"):
            return Check(title, "unknown", f"{image}: no node took the pod: {symptom.message}", "")
        detail = symptom.message if image in symptom.message else f"{image}: {symptom.message}"
        return Check(title, "error", detail, symptom.fix)
    return None


def _pod(
    name: str, image: str, roles: Sequence[str], config: ClusterConfig, asked: Sequence[Asked]
) -> Object:
    """Return a pod that ends at once, as small and as restricted as can be."""
    place = _place_of(roles, asked)
    amounts = {"cpu": "10m", "memory": "64Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {LABEL: "image"}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 1800,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "imagePullSecrets": [{"name": each} for each in config.image_pull_secrets],
            "nodeSelector": place.selector() if place else {},
            "tolerations": [
                each.model_dump(mode="json", exclude_none=True)
                for each in (place.place.tolerations if place else ())
            ],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "check",
                    "image": image,
                    "imagePullPolicy": config.image_pull_policy,
                    "command": ["/bin/true"],
                    "resources": {"requests": amounts, "limits": amounts},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def _place_of(roles: Sequence[str], asked: Sequence[Asked]) -> Asked | None:
    """Return where the image's tasks run: those with GPUs for training, else the first."""
    if "train" in roles or "eval" in roles:
        return next((each for each in asked if each.place.gpu), asked[0] if asked else None)
    return next((each for each in asked if not each.place.gpu), None)


def _held(api: ApiClient) -> list[set[str]]:
    """Return the names of the images on each node; nothing without the right to read nodes."""
    try:
        nodes = objects.listed(api, objects.address("v1", "nodes"))
    except NotAllowed:
        return []
    return [
        {name for image in (node.get("status") or {}).get("images") or [] for name in _names(image)}
        for node in nodes
    ]


def _names(image: Mapping[str, Any]) -> list[str]:
    return list(image.get("names") or [])


def _same(image: str, names: set[str]) -> bool:
    """Return whether a node has the image, whose name a runtime may have made longer."""
    full = image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"
    return bool(
        names & {full, f"docker.io/{full}", f"docker.io/library/{full}", f"localhost/{full}"}
    )


def _forget(remove: Callable[[], object]) -> None:
    """Remove a probe; what can't be removed ends by itself, and the next check removes it."""
    with contextlib.suppress(ClusterError):
        remove()
