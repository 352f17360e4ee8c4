"""`vila cluster apply`: bring a cluster to its manifests by server-side apply, and wait for it."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.kube import objects
from components.kube.errors import (
    Absent,
    Changed,
    ClusterError,
    Invalid,
    KindMissing,
    Request,
    missing_kind,
)
from components.kube.kinds import PROVIDERS
from vila_ops.cluster import pods
from vila_ops.cluster.outcome import Done
from vila_ops.cluster.symptoms import new_secret

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = dict[str, Any]
_SERVER_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
_POLL_S = 2.0


@dataclass(frozen=True)
class Progress:
    """How far a workload is. `problem` says what holds it up, with what to do in `fix`."""

    name: str
    state: str
    done: bool = False
    failed: bool = False
    problem: str = ""
    fix: str = ""


def apply(
    api: ApiClient, manifests: Sequence[Object], *, dry_run: bool = False, force: bool = False
) -> Iterator[Done]:
    """Yield what becomes of each object, in order; a refused one does not keep others back.

    Kinds that a CRD brings come last: whatever they lack, the rest is there. With `dry_run` the
    server checks everything and keeps nothing. `force` takes fields that others manage. Raises
    ClusterError only when the API can't be asked any more.
    """
    fresh: set[str] = set()
    for manifest in sorted(manifests, key=lambda each: _group(each) in PROVIDERS):
        name = title(manifest)
        try:
            done = _apply(api, manifest, dry_run=dry_run, force=force)
        except KindMissing as error:
            message, _, fix = str(error).partition("; fix: ")
            done = Done(name, "skipped", message, fix)
        except Absent as error:
            if not dry_run or manifest["metadata"].get("namespace") not in fresh:
                done = Done(name, "refused", str(error))
            else:
                done = Done(name, "created", "in a namespace that is new: not checked")
        except Changed as error:
            done = Done(
                name,
                "refused",
                f"somebody else manages what it sets: {error}",
                "put the same values into your overlay, or take them: --force-conflicts",
            )
        except ClusterError as error:
            if error.status in (0, 401):
                raise
            message, _, fix = str(error).partition("; fix: ")
            done = Done(name, "refused", message, fix.rstrip("."))
        if manifest["kind"] == "Namespace" and done.outcome == "created":
            fresh.add(manifest["metadata"]["name"])
        yield done


def missing_secrets(
    api: ApiClient, needed: Mapping[tuple[str, str], Sequence[str]]
) -> Iterator[Done]:
    """Yield the Secrets that objects name, and that neither they nor the cluster provide."""
    for (namespace, name), keys in sorted(needed.items()):
        try:
            found = objects.find(api, objects.address("v1", "secrets", namespace, name))
        except ClusterError:
            continue  # no right to read Secrets: pods tell it if one is missing
        lacking = sorted(set(keys) - (found or {}).get("data", {}).keys())
        if found is None or lacking:
            detail = f"lacks {', '.join(lacking)}" if found else "must be made by hand"
            fix = new_secret(namespace, name, sorted(keys))
            yield Done(f"Secret {namespace}/{name}", "missing", detail, fix)


def wait(
    api: ApiClient, manifests: Sequence[Object], *, limit_s: float, poll_s: float = _POLL_S
) -> Iterator[Progress]:
    """Yield the state of each Deployment, StatefulSet and Job as it changes, until all are done.

    After `limit_s` seconds those that are not are yielded as failed.
    """
    kinds = ("Deployment", "StatefulSet", "Job")
    open_ = [manifest for manifest in manifests if manifest["kind"] in kinds]
    told: dict[str, Progress] = {}
    deadline = time.monotonic() + limit_s
    while True:
        for manifest in list(open_):
            now = progress(api, manifest)
            late = time.monotonic() > deadline and not now.done
            if late and not now.failed:
                state = f"{now.state}: not ready after {limit_s:.0f} s"
                now = Progress(now.name, state, failed=True, problem=now.problem, fix=now.fix)
            if now.done or now.failed:
                open_.remove(manifest)
            if told.get(now.name) != now:
                told[now.name] = now
                yield now
        if not open_:
            return
        time.sleep(poll_s)


def title(manifest: Mapping[str, Any]) -> str:
    """Return an object's kind, namespace and name."""
    meta = manifest["metadata"]
    where = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{manifest['kind']} {where}{meta['name']}"


def _apply(api: ApiClient, manifest: Object, *, dry_run: bool, force: bool) -> Done:
    name, path = title(manifest), path_of(api, manifest)
    before = objects.find(api, path)
    try:
        after = objects.apply(api, path, manifest, dry_run=dry_run, force=force)
    except Invalid as error:
        # A Job's template can't be changed; ours may run again at any time.
        if before is None or manifest["kind"] != "Job" or "immutable" not in str(error):
            raise
        if not dry_run:
            objects.delete(api, path)
            _gone(api, path)
            objects.apply(api, path, manifest, force=force)
        return Done(name, "replaced", "a Job can't be changed: made anew")
    if before is None:
        return Done(name, "created")
    changed = list(_differences(_bare(before), _bare(after)))
    if not changed:
        return Done(name, "unchanged")
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return Done(name, "changed", ", ".join(changed[:3]) + more)


def path_of(api: ApiClient, manifest: Mapping[str, Any]) -> str:
    """Return the address of an object, by the API's own names of kinds. Raises KindMissing."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    plural, namespaced = _resource(api, version, kind)
    meta = manifest["metadata"]
    namespace = meta.get("namespace", "default") if namespaced else ""
    return objects.address(version, plural, namespace, meta["name"])


@functools.lru_cache(maxsize=512)
def _resource(api: ApiClient, version: str, kind: str) -> tuple[str, bool]:
    path = f"/apis/{version}" if "/" in version else f"/api/{version}"
    try:
        found = objects.get(api, path)["resources"]
    except Absent:
        found = []
    for each in found:
        if each["kind"] == kind and "/" not in each["name"]:
            return each["name"], bool(each["namespaced"])
    server = api.server  # type: ignore[attr-defined]
    plural = f"{kind.lower()}s"
    raise missing_kind(Request("GET", f"{path}/{plural}", server))


def _gone(api: ApiClient, path: str, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while objects.find(api, path) is not None and time.monotonic() < deadline:
        time.sleep(0.5)


def progress(api: ApiClient, manifest: Object) -> Progress:
    """Return how far a Deployment, StatefulSet or Job is, and what holds it up."""
    name, kind = title(manifest), manifest["kind"]
    found = objects.find(api, path_of(api, manifest))
    if found is None:
        return Progress(name, "is not there", failed=True, fix="vila cluster apply")
    status = found.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    if kind == "Job":
        if conditions.get("Complete", {}).get("status") == "True":
            return Progress(name, "complete", done=True)
        if conditions.get("Failed", {}).get("status") == "True":
            where, job = found["metadata"]["namespace"], found["metadata"]["name"]
            told = conditions["Failed"].get("message", "failed")
            fix = f"kubectl -n {where} logs job/{job}; then vila cluster apply"
            return Progress(name, "failed", failed=True, problem=told, fix=fix)
        state = f"{status.get('active', 0)} running, {status.get('failed', 0)} failed"
    else:
        wanted = found["spec"].get("replicas", 1)
        current = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
        ready = status.get("readyReplicas", 0)
        updated = status.get("updatedReplicas", 0)
        if current and ready >= wanted and updated >= wanted:
            return Progress(name, f"{ready} of {wanted} ready", done=True)
        state = f"{ready} of {wanted} ready"
    problem, fix = _held_up(api, found)
    return Progress(name, state, problem=problem, fix=fix)


def _held_up(api: ApiClient, workload: Object) -> tuple[str, str]:
    """Return what keeps the pods of a workload from running, and what to do."""
    where, name = workload["metadata"]["namespace"], workload["metadata"]["name"]
    labels = (workload["spec"].get("selector") or {}).get("matchLabels")
    labels = labels or {"batch.kubernetes.io/job-name": name}
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    try:
        found = objects.listed(api, objects.address("v1", "pods", where), selector=selector)
        events = objects.listed(api, objects.address("v1", "events", where)) if found else []
    except ClusterError:
        return "", ""
    for pod in found:
        own = [
            event
            for event in events
            if (event.get("involvedObject") or {}).get("name") == pod["metadata"]["name"]
        ]
        for symptom in pods.of_pod(pod, own, {}, set()):
            return symptom.message, symptom.fix
    return "", ""


def _bare(found: Object) -> Object:
    """Return an object without what the server itself writes."""
    bare = copy.deepcopy(found)
    for key in _SERVER_OWN:
        bare["metadata"].pop(key, None)
    bare.pop("status", None)
    return bare


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two objects differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            below = f"{path}.{key}" if path else key
            yield from _differences(before.get(key), after.get(key), below)
    elif before != after:
        yield path


def _group(manifest: Mapping[str, Any]) -> str:
    version = manifest["apiVersion"]
    return version.partition("/")[0] if "/" in version else ""
