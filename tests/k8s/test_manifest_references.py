"""Nothing in the manifests leads nowhere; and whatever is broken, the check finds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.k8s.rendered import OVERLAYS, objects, one
from vila_ops.cluster.patch import Manifest
from vila_ops.cluster.references import dangling, secrets_by_hand

Path = tuple[str | int, ...]

BY_HAND = {
    "kind": set(),
    "gpu-cluster": set(),
    "airgapped": {
        ("vila", "vila-store-credentials"),
        ("vila", "vila-dashboard-tokens"),
        ("vila", "vila-minio-root"),
        ("vila", "vila-registry"),
        ("kubeflow", "vila-registry"),
    },
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_leads_somewhere(overlay: str) -> None:
    manifests = objects(overlay)
    assert dangling(manifests) == []
    assert secrets_by_hand(manifests).keys() == BY_HAND[overlay]


def test_secrets_by_hand_come_with_their_keys() -> None:
    needed = secrets_by_hand(objects("airgapped"))
    assert needed["vila", "vila-store-credentials"] == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }
    assert needed["vila", "vila-minio-root"] == {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"}


# ---- mutations: each reference in turn is changed to what does not exist ------------------------

REFERENCES: set[tuple[str, ...]] = {
    ("serviceAccountName",),
    ("priorityClassName",),
    ("secretName",),
    ("serviceName",),
    ("clusterQueue",),
    ("targetPort",),
    ("httpGet", "port"),
    ("metadata", "namespace"),
    ("roleRef", "name"),
    ("subjects", "name"),
    ("subjects", "namespace"),
    ("volumes", "name"),
    ("volumeMounts", "name"),
    ("claimName",),
    ("configMapRef", "name"),
    ("secretKeyRef", "name"),
    ("secretKeyRef", "key"),
    ("flavors", "name"),
    ("coveredResources",),
    ("service", "name"),
    ("service", "port", "name"),
    ("endpoints", "port"),
    ("credentials", "name"),
    ("credentials", "key"),
    ("items", "key"),
    ("scopeSelector", "matchExpressions", "values"),
    ("ingress", "ports", "port"),
}
LABELS = {"matchLabels", "selector"}
ELSEWHERE = {"kube-system", "kube-dns"}  # of the cluster itself: nothing here says what it has
TLS = "vila-dashboard-tls"  # made by whoever terminates TLS; a Secret that no pod reads


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def is_reference(path: Path, value: Any) -> bool:
    if value in ELSEWHERE or value == TLS:
        return False
    named = tuple(step for step in path if isinstance(step, str))
    if any(named[-len(ending) :] == ending for ending in REFERENCES):
        return True
    return len(named) > 1 and named[-2] in LABELS


def changed(manifests: list[Manifest], index: int, path: Path) -> list[Manifest]:
    broken = list(manifests)
    broken[index] = _with(broken[index], path)
    return broken


def _with(value: Any, path: Path) -> Any:
    if not path:
        return 1 if isinstance(value, int) else "gone"
    step, *rest = path
    if isinstance(value, list):
        return [_with(v, tuple(rest)) if i == step else v for i, v in enumerate(value)]
    return {k: _with(v, tuple(rest)) if k == step else v for k, v in value.items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_broken_reference_is_found(overlay: str) -> None:
    manifests = objects(overlay)
    by_hand = secrets_by_hand(manifests)
    missed, tried = [], 0
    for index, manifest in enumerate(manifests):
        for path, value in leaves(manifest):
            if not is_reference(path, value):
                continue
            tried += 1
            broken = changed(manifests, index, path)
            if not dangling(broken) and secrets_by_hand(broken) == by_hand:
                missed.append(f"{manifest['kind']} {manifest['metadata']['name']}: {path}")
    assert missed == []
    assert tried > 100


RENAMED = [
    ("kind", "ServiceAccount", "vila-step"),
    ("kind", "ServiceAccount", "vila-train"),
    ("kind", "ServiceAccount", "vila-dashboard"),
    ("kind", "ServiceAccount", "minio"),
    ("kind", "Role", "vila-train"),
    ("kind", "PriorityClass", "vila-training"),
    ("kind", "PriorityClass", "vila-interactive"),
    ("kind", "Service", "minio"),
    ("kind", "Namespace", "vila"),
    ("kind", "ClusterQueue", "vila"),
    ("kind", "ResourceFlavor", "vila-nodes"),
    ("gpu-cluster", "ResourceFlavor", "vila-gpus"),
    ("gpu-cluster", "Service", "vila-dashboard"),
]


@pytest.mark.parametrize(("overlay", "kind", "name"), RENAMED)
def test_an_object_that_others_name_is_missed(overlay: str, kind: str, name: str) -> None:
    manifests = objects(overlay)
    one(manifests, kind, name)["metadata"]["name"] = "renamed"
    assert any(name in line for line in dangling(manifests))


@pytest.mark.parametrize("kind", ["Secret", "ExternalSecret"])
def test_a_provider_of_secrets_is_missed(kind: str) -> None:
    manifests = objects("kind" if kind == "Secret" else "gpu-cluster")
    left = [item for item in manifests if item["kind"] != kind]
    assert len(left) < len(manifests)
    assert ("vila", "vila-store-credentials") in secrets_by_hand(left)


def test_a_volume_that_nothing_mounts_and_a_label_that_nothing_has() -> None:
    manifests = objects("kind")
    dashboard = one(manifests, "Deployment", "vila-dashboard")
    dashboard["spec"]["template"]["spec"]["volumes"].append({"name": "spare", "emptyDir": {}})
    del dashboard["spec"]["template"]["metadata"]["labels"]["vila.dev/uses-store"]
    assert dangling(manifests) == [
        "Deployment vila-dashboard: volumes: spare: mounted by no container"
    ]
    del one(manifests, "Job", "vila-bootstrap")["spec"]["template"]["metadata"]["labels"][
        "vila.dev/uses-store"
    ]
    lines = dangling(manifests)
    assert "NetworkPolicy to-store: podSelector: selects no pod" in lines


def test_a_claim_and_a_key_that_are_not_there() -> None:
    manifests = objects("kind")
    pod = one(manifests, "Job", "vila-bootstrap")["spec"]["template"]["spec"]
    pod["volumes"][1] = {"name": "cache", "persistentVolumeClaim": {"claimName": "none"}}
    pod["containers"][0]["env"][1]["valueFrom"]["secretKeyRef"]["key"] = "AWS_KEY"
    assert dangling(manifests) == [
        "Job vila-bootstrap: volumes: cache: no PersistentVolumeClaim none",
        "Job vila-bootstrap: Secret vila-store-credentials: has no key AWS_KEY",
    ]
