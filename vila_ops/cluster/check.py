"""`vila cluster check`: what a live cluster lacks for runs, each with the command that brings it.

Nothing is changed but for a probe object in the store and probe pods, which are removed again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.kube import objects
from components.kube.client import Patience
from components.kube.errors import ClusterError, NoAnswer, NotAllowed, NotAuthenticated
from components.kube.kinds import KFP_VERSION, PIPELINES, PROVIDERS, TRAINER_VERSION
from vila_core.errors import VilaError
from vila_ops.cluster import (
    check_images,
    check_nodes,
    check_objects,
    check_services,
    check_store,
)
from vila_ops.cluster.asked import Asked, asked_by
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.doctor import Check

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

OLDEST_KUBERNETES = (1, 31)
_SHORT = Patience(connect_s=5, read_s=20, tries=2)
_TRAINER = "trainer.kubeflow.org"
_KUEUE = "kueue.x-k8s.io"


def examine(
    config: ClusterConfig,
    name: str,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    pull: bool = True,
    pull_limit_s: float = 180.0,
) -> Iterator[Check]:
    """Yield the checks one by one; pulls of images come last and may take minutes.

    Raises UserError for an unknown context or recipe.
    """
    asked = asked_by(config, recipe, overrides)
    apply, bootstrap = f"vila cluster apply {name}", f"vila cluster bootstrap {name}"
    api = kubernetes_api(config, _SHORT)
    try:
        objects.get(api, "/version")
    except (NoAnswer, NotAuthenticated) as error:
        yield _of_error("kubernetes", error, "error")
        yield Check("the rest", "unknown", "can't be seen without the Kubernetes API")
        yield from check_store.store(None, config, bootstrap)
        return
    groups: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("kubernetes", lambda: _kubernetes(api)),
        ("CRDs", lambda: _kinds(api, config, asked)),
        ("trainer", lambda: _trainer(api, asked)),
        ("pipelines", lambda: _pipelines(api, config)),
        ("rights", lambda: _rights(api, config, asked)),
        ("objects", lambda: check_objects.in_namespace(api, config, apply, asked)),
        ("classes", lambda: check_objects.of_cluster(api, config, apply, asked)),
        ("nodes", lambda: check_nodes.nodes(api, asked)),
        ("quotas", lambda: check_nodes.quotas(api, config, asked)),
        ("services", lambda: check_services.services(api, config, apply)),
        ("store", lambda: check_store.store(api, config, bootstrap)),
        (
            "images",
            lambda: check_images.images(api, config, asked, pull=pull, limit_s=pull_limit_s),
        ),
    ]
    for title, group in groups:
        try:
            yield from group()
        except NotAllowed as error:
            yield _of_error(title, error, "unknown")
        except ClusterError as error:
            yield _of_error(title, error, "error")


def _of_error(title: str, error: VilaError, level: Any) -> Check:
    detail, _, fix = str(error).partition("; fix: ")
    return Check(title, level, detail, fix.rstrip("."))


def _kubernetes(api: ApiClient) -> Iterator[Check]:
    answer: Any = api.call_api(
        "/version", "GET", auth_settings=["BearerToken"], response_type="object"
    )
    version, headers = str(answer[0]["gitVersion"]), answer[2]
    known = _series(version)
    wanted = ".".join(map(str, OLDEST_KUBERNETES))
    if known >= OLDEST_KUBERNETES:
        yield Check("kubernetes", "ok", f"{version} (wanted: {wanted} or newer)")
    else:
        fix = f"upgrade the cluster (kubeadm upgrade plan; kind: an image of v{wanted})"
        yield Check("kubernetes", "error", f"{version} is older than {wanted}", fix)
    yield from check_store.clock("clock of API", headers)


def _kinds(api: ApiClient, config: ClusterConfig, asked: Sequence[Asked]) -> Iterator[Check]:
    many = any(each.nodes > 1 for each in asked)
    wanted = [
        (f"{_TRAINER}/v1alpha1", ("trainjobs", "clustertrainingruntimes"), many, "train.nodes > 1"),
        ("argoproj.io/v1alpha1", ("workflows",), True, "KFP's runs"),
    ]
    if config.queue is not None:
        version = objects.served(api, _KUEUE) or f"{_KUEUE}/v1beta1"
        wanted.append((version, ("localqueues", "clusterqueues", "workloads"), True, "`queue`"))
    for api_version, plurals, needed, why in wanted:
        group = api_version.partition("/")[0]
        try:
            found = objects.get(api, f"/apis/{api_version}")["resources"]
            names = {each["name"] for each in found}
        except ClusterError as error:
            if isinstance(error, NotAllowed | NoAnswer):
                raise
            names = set()
        lacking = [plural for plural in plurals if plural not in names]
        if lacking:
            yield Check(
                f"CRD {lacking[0]}",
                "error" if needed else "warning",
                f"{', '.join(lacking)} of {api_version} not served: needed for {why}",
                PROVIDERS[group].install,
            )
        else:
            yield Check(f"CRD {plurals[0]}", "ok", api_version)


def _trainer(api: ApiClient, asked: Sequence[Asked]) -> Iterator[Check]:
    """Yield the version of Trainer's controller, which only its Deployment knows."""
    if objects.served(api, _TRAINER) is None:
        return
    found = [
        (deployment, container["image"])
        for space in ("kubeflow-system", "kubeflow")
        for deployment in _deployments(api, space)
        for container in deployment["spec"]["template"]["spec"]["containers"]
        if "trainer-controller-manager" in container["image"]
    ]
    if not found:
        yield Check(
            "trainer", "unknown", "no controller in kubeflow-system or kubeflow: elsewhere?"
        )
        return
    deployment, image = found[0]
    tag = image.rpartition(":")[2]
    where = deployment["metadata"]["namespace"]
    level = "error" if any(each.nodes > 1 for each in asked) else "warning"
    if not (deployment.get("status") or {}).get("availableReplicas"):
        fix = f"kubectl -n {where} describe pods -l app.kubernetes.io/name=trainer"
        yield Check("trainer", level, f"{tag}: its controller does not run", fix)
    elif _series(tag) != _series(TRAINER_VERSION):
        fix = PROVIDERS[_TRAINER].install
        yield Check("trainer", "warning", f"{tag}; tested with {TRAINER_VERSION}", fix)
    else:
        yield Check("trainer", "ok", tag)


def _deployments(api: ApiClient, namespace: str) -> list[dict[str, Any]]:
    try:
        return objects.listed(api, objects.address("apps/v1", "deployments", namespace))
    except NotAllowed:
        return []


def _pipelines(api: ApiClient, config: ClusterConfig) -> Iterator[Check]:
    place = config.kfp
    try:
        if place.url is None:
            service = f"{place.service}:{place.port}"
            base = objects.address("v1", "services", place.namespace, service)
            found = objects.get(api, f"{base}/proxy/apis/v2beta1/healthz")
        else:
            found = _health(place.url, place.token_env)
    except NotAllowed:
        raise
    except (ClusterError, OSError) as error:
        told = str(error).partition("; fix")[0]
        fix = f"kubectl -n {place.namespace} get pods -l app=ml-pipeline; not there: "
        yield Check("pipelines", "error", f"its API: {told}", fix + PIPELINES.install)
        return
    tag = str((found if isinstance(found, Mapping) else {}).get("tag_name") or "")
    if not tag:
        yield Check("pipelines", "unknown", "answers, but does not say its version")
    elif _series(tag) == _series(KFP_VERSION):
        yield Check("pipelines", "ok", f"{tag}")
    else:
        older = _numbers(tag) < _numbers(KFP_VERSION)
        level = "error" if older else "warning"
        yield Check("pipelines", level, f"{tag}; tested with {KFP_VERSION}", PIPELINES.install)


def _health(url: str, token_env: str | None) -> Any:
    import json
    import urllib.error
    import urllib.request

    token = os.environ.get(token_env or "", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/apis/v2beta1/healthz", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return json.loads(answer.read() or b"{}")
    except ValueError:
        raise OSError(f"{url}: what answers is not KFP's API (no JSON)") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url}: {error}") from None


def _rights(api: ApiClient, config: ClusterConfig, asked: Sequence[Asked]) -> Iterator[Check]:
    """Yield what who runs this may not do, of what submitting and following runs needs."""
    wanted = [
        ("get", "", "services/proxy", config.kfp.namespace),
        ("create", "", "services/proxy", config.kfp.namespace),
        ("list", "", "pods", config.namespace),
        ("get", "", "pods/log", config.namespace),
        ("list", "", "events", config.namespace),
        ("delete", "", "pods", config.namespace),
    ]
    if config.kfp.url is not None:
        wanted = [right for right in wanted if right[2] != "services/proxy"]
    if any(each.nodes > 1 for each in asked):
        wanted += [(verb, _TRAINER, "trainjobs", config.namespace) for verb in ("list", "delete")]
    lacking = [right for right in wanted if not _may(api, *right, name=_name_of(right, config))]
    if lacking:
        told = ", ".join(f"{verb} {resource}" for verb, _, resource, _ in lacking)
        spaces = sorted({where for _, _, _, where in lacking})
        fix = f"kubectl -n {spaces[0]} create rolebinding vila-users --role vila-user --user YOU"
        yield Check("your rights", "error", f"in {', '.join(spaces)} you may not {told}", fix)
    else:
        yield Check("your rights", "ok", "to submit, follow and stop runs")


def _name_of(right: tuple[str, str, str, str], config: ClusterConfig) -> str:
    is_proxy = right[2] == "services/proxy"
    return f"{config.kfp.service}:{config.kfp.port}" if is_proxy else ""


def _may(
    api: ApiClient, verb: str, group: str, resource: str, namespace: str, *, name: str
) -> bool:
    plural, _, part = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
    attributes |= {"subresource": part} if part else {}
    attributes |= {"name": name} if name else {}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return bool(objects.create(api, path, body)["status"]["allowed"])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _series(version: str) -> tuple[int, ...]:
    """Return major and minor number."""
    return _numbers(version)[:2]
