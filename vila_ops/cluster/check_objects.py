"""Whether the objects are there that tasks name: accounts, Secrets, claims, queues, classes."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.kube import objects
from components.kube.errors import Absent, NotAllowed
from vila_ops.cluster.asked import Asked
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.symptoms import new_secret
from vila_ops.doctor import Check

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = Mapping[str, Any]
TRAINER = "trainer.kubeflow.org/v1alpha1"


def in_namespace(
    api: ApiClient, config: ClusterConfig, apply: str, asked: Sequence[Asked]
) -> Iterator[Check]:
    """Yield what the namespace of the tasks has and lacks; `apply` is the command that makes it."""
    where = config.namespace
    if objects.find(api, objects.address("v1", "namespaces", name=where)) is None:
        yield Check("namespace", "error", f"there is no namespace {where}", apply)
        return
    yield Check("namespace", "ok", where)
    accounts = [config.service_account]
    accounts += [config.nodes.service_account] if _many_nodes(asked) else []
    for name in dict.fromkeys(accounts):
        yield _there(api, "service account", "serviceaccounts", where, name, apply)
    yield from _secrets(api, config)
    if config.store.config_map is not None:
        yield _store_map(api, config, config.store.config_map, apply)
    claims = [config.cache_claim] if config.cache_claim else []
    for name in dict.fromkeys([*claims, *(volume.claim for volume in config.volumes)]):
        yield _claim(api, where, name, apply)
    if config.queue is not None:
        yield _queue(api, where, config.queue, apply)


def of_cluster(
    api: ApiClient, config: ClusterConfig, apply: str, asked: Sequence[Asked]
) -> Iterator[Check]:
    """Yield what belongs to no namespace: priority classes, storage classes, the runtime."""
    for name in sorted({each.place.priority_class or "" for each in asked} - {""}):
        path = objects.address("scheduling.k8s.io/v1", "priorityclasses", name=name)
        found = objects.find(api, path)
        if found is None:
            yield Check("priority class", "error", f"there is no {name}", apply)
        else:
            yield Check("priority class", "ok", f"{name} ({found.get('value')})")
    for name in sorted({each.place.scratch_class or "" for each in asked} - {""}):
        path = objects.address("storage.k8s.io/v1", "storageclasses", name=name)
        if objects.find(api, path) is None:
            fix = "kubectl get storageclass, and name one of them in scratch_class"
            yield Check("storage class", "error", f"there is no {name}", fix)
    runtime = config.nodes.runtime
    path = objects.address(TRAINER, "clustertrainingruntimes", name=runtime)
    level = "error" if _many_nodes(asked) else "warning"
    try:
        objects.get(api, path)
        yield Check("training runtime", "ok", runtime)
    except Absent as error:
        fix = str(error).partition("fix: ")[2] or apply
        yield Check("training runtime", level, f"there is no {runtime}: for train.nodes > 1", fix)


def secret_values(api: ApiClient, namespace: str, name: str) -> dict[str, str]:
    """Return what a Secret holds. Raises Absent, NotAllowed."""
    found = objects.get(api, objects.address("v1", "secrets", namespace, name))
    data = found.get("data") or {}
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}


def _secrets(api: ApiClient, config: ClusterConfig) -> Iterator[Check]:
    wanted: dict[str, tuple[str, ...]] = {}
    if config.store.secret:
        wanted[config.store.secret] = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if config.tracking.wandb_secret:
        wanted[config.tracking.wandb_secret] = ("WANDB_API_KEY",)
    if config.store.ca_secret:
        wanted[config.store.ca_secret] = ("ca.crt",)
    for name in config.image_pull_secrets:
        wanted[name] = (".dockerconfigjson",)
    for name, keys in wanted.items():
        yield _secret(api, config.namespace, name, keys)


def _secret(api: ApiClient, where: str, name: str, keys: Sequence[str]) -> Check:
    title, fix = "secret", new_secret(where, name, keys)
    try:
        values = secret_values(api, where, name)
    except NotAllowed:
        return Check(
            title,
            "unknown",
            f"{name}: you may not read Secrets in {where}, so it can't be seen",
            f"somebody who may: kubectl -n {where} get secret {name}",
        )
    except Absent:
        return Check(title, "error", f"{name}: is missing in {where}", fix)
    lacking = [key for key in keys if not values.get(key)]
    has = ", ".join(sorted(values)) or "nothing"
    if lacking:
        return Check(
            title,
            "error",
            f"{name}: lacks {' and '.join(lacking)} (has: {has})",
            f"kubectl -n {where} delete secret {name} && {fix}",
        )
    padded = [key for key in keys if values[key] != values[key].strip() and key != "ca.crt"]
    if padded and ".dockerconfigjson" not in padded:
        detail = f"{name}: {' and '.join(padded)} begins or ends with white space"
        return Check(title, "error", detail, f"kubectl -n {where} delete secret {name} && {fix}")
    return Check(title, "ok", f"{name}: {', '.join(keys)}")


def _store_map(api: ApiClient, config: ClusterConfig, name: str, apply: str) -> Check:
    title = "config map"
    found = objects.find(api, objects.address("v1", "configmaps", config.namespace, name))
    if found is None:
        return Check(title, "error", f"{name}: is missing in {config.namespace}", apply)
    data = found.get("data") or {}
    wanted = {"VILA_S3_ENDPOINT": config.store.endpoint, "AWS_REGION": config.store.region}
    other = [f"{key} is {data.get(key)}" for key, value in wanted.items() if data.get(key) != value]
    if other:
        return Check(title, "error", f"{name}: {'; '.join(other)}, not as in the config", apply)
    return Check(title, "ok", f"{name}: {wanted['VILA_S3_ENDPOINT']}")


def _claim(api: ApiClient, where: str, name: str, apply: str) -> Check:
    title = "claim"
    found = objects.find(api, objects.address("v1", "persistentvolumeclaims", where, name))
    if found is None:
        return Check(title, "error", f"{name}: is missing in {where}", apply)
    phase = (found.get("status") or {}).get("phase", "Pending")
    spec = found["spec"]
    size = spec["resources"]["requests"]["storage"]
    modes = "/".join(spec.get("accessModes") or [])
    if phase == "Bound":
        return Check(title, "ok", f"{name}: bound, {size}, {modes}")
    kind = _storage_class(api, spec.get("storageClassName"))
    if kind is None:
        wanted = spec.get("storageClassName") or "default"
        return Check(
            title,
            "error",
            f"{name}: {phase}, and there is no storage class '{wanted}' that makes its volume",
            "kubectl get storageclass; mark one as default: kubectl annotate storageclass CLASS "
            "storageclass.kubernetes.io/is-default-class=true",
        )
    if kind.get("volumeBindingMode") == "WaitForFirstConsumer":
        return Check(title, "ok", f"{name}: bound when a task first uses it, {size}, {modes}")
    maker = kind["provisioner"]
    fix = f"kubectl -n {where} describe pvc {name} (does {maker} run, and allow {modes}?)"
    return Check(title, "error", f"{name}: {phase}, its volume was not made", fix)


def _storage_class(api: ApiClient, name: str | None) -> Object | None:
    mark = "storageclass.kubernetes.io/is-default-class"
    for found in objects.listed(api, objects.address("storage.k8s.io/v1", "storageclasses")):
        default = (found["metadata"].get("annotations") or {}).get(mark) == "true"
        if found["metadata"]["name"] == name or (name is None and default):
            return found
    return None


def _queue(api: ApiClient, where: str, name: str, apply: str) -> Check:
    title = "queue"
    version = objects.served(api, "kueue.x-k8s.io")
    if version is None:
        return Check(title, "error", "Kueue is not installed", "see CRDs above")
    found = objects.find(api, objects.address(version, "localqueues", where, name))
    if found is None:
        return Check(title, "error", f"there is no LocalQueue {name} in {where}", apply)
    upper = found["spec"].get("clusterQueue", "")
    for condition in (found.get("status") or {}).get("conditions") or []:
        if condition["type"] == "Active" and condition["status"] != "True":
            fix = f"kubectl describe clusterqueue {upper}"
            return Check(title, "error", f"{name}: not active: {condition.get('message', '')}", fix)
    status = found.get("status") or {}
    waiting = status.get("pendingWorkloads", 0)
    return Check(title, "ok", f"{name}: of ClusterQueue {upper}, {waiting} waiting")


def _there(api: ApiClient, title: str, plural: str, where: str, name: str, apply: str) -> Check:
    if objects.find(api, objects.address("v1", plural, where, name)) is None:
        return Check(title, "error", f"there is no {name} in {where}", apply)
    return Check(title, "ok", name)


def _many_nodes(asked: Sequence[Asked]) -> bool:
    return any(each.nodes > 1 for each in asked)
