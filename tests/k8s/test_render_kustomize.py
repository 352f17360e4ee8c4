"""Our renderer gives what kubectl's kustomize gives, and refuses what it does not know."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.rendered import K8S, OVERLAYS, objects, one
from vila_core.errors import UserError
from vila_ops.cluster.patch import Manifest
from vila_ops.cluster.render import key_of, overlay_folder, render, to_yaml

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")


def by_kubectl(folder: Path) -> list[Manifest]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_equal_to_kubectl(overlay: str) -> None:
    ours = {key_of(item): item for item in objects(overlay)}
    theirs = {key_of(item): item for item in by_kubectl(K8S / "overlays" / overlay)}
    assert ours.keys() == theirs.keys()
    for key, item in ours.items():
        assert item == theirs[key], key


CONFIG = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data: {a: "1", b: "2"}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: worker}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: worker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: worker}
subjects:
  - {kind: ServiceAccount, name: worker}
  - {kind: Group, apiGroup: rbac.authorization.k8s.io, name: people}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      initContainers:
        - {name: i, image: "registry:5000/team/app:1.0"}
      containers:
        - {name: c, image: team/app}
        - {name: d, image: "team/app@sha256:0123"}
        - {name: e, image: "team/application:1"}
"""


def kustomization(folder: Path, text: str, **files: str) -> Path:
    (folder / "kustomization.yaml").write_text(text)
    for name, content in {"objects.yaml": CONFIG, **files}.items():
        (folder / name).write_text(content)
    return folder


CONTAINERS = "/spec/template/spec/containers"


def patch(target: dict[str, str], *operations: dict) -> str:
    return json.dumps({"patches": [{"target": target, "patch": json.dumps(operations)}]})[1:-1]


FEATURES = {
    "merge": 'patches: [{patch: "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings},'
    ' data: {a: null, b: x, c: y}}"}]',
    "operations": patch(
        {"kind": "ConfigMap"},
        {"op": "add", "path": "/data/x~1y", "value": "3"},
        {"op": "remove", "path": "/data/a"},
        {"op": "replace", "path": "/data/b", "value": "9"},
    ),
    "a patch of several": patch(
        {"name": "worker"}, {"op": "add", "path": "/metadata/labels", "value": {"new": "yes"}}
    ),
    "lists": patch(
        {"kind": "Deployment"},
        {"op": "add", "path": f"{CONTAINERS}/-", "value": {"name": "z", "image": "z"}},
        {"op": "remove", "path": f"{CONTAINERS}/0"},
    ),
    "namespace": "namespace: elsewhere",
    "labels": "labels: [{pairs: {app.kubernetes.io/part-of: vila}}]",
    "images": "images: [{name: team/app, newName: other/app, newTag: v2}]",
    "image digests": "images: [{name: registry:5000/team/app, digest: sha256:abcd}]",
    "image names": "images: [{name: team/app, newName: other}]",
    "config maps": "configMapGenerator: [{name: made, namespace: here, literals: [k=v=w], files:"
    " [n=objects.yaml, objects.yaml], options: {disableNameSuffixHash: true, labels: {l: m}}}]",
}


@needs_kubectl
@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_is_kubectls(tmp_path: Path, feature: str) -> None:
    folder = kustomization(tmp_path, f"resources: [objects.yaml]\n{FEATURES[feature]}\n")
    ours = {key_of(item): item for item in render(folder)}
    assert ours == {key_of(item): item for item in by_kubectl(folder)}
    assert ours != {key_of(item): item for item in yaml.safe_load_all(CONFIG)}


REFUSED = {
    "namePrefix: x": "namePrefix: not rendered here",
    "resources: [absent.yaml]": "absent.yaml: can't be read",
    "resources: [objects.yaml, objects.yaml]": "ConfigMap settings: is there twice",
    "resources: [objects.yaml]\nconfigMapGenerator: [{name: m}]": "disableNameSuffixHash: true",
    "resources: [objects.yaml]\nlabels: [{pairs: {a: b}, includeSelectors: true}]": "only pairs",
    'resources: [objects.yaml]\npatches: [{target: {kind: Nothing}, patch: "[]"}]': "no object is",
    "resources: [objects.yaml]\npatches: [{target: {kind: ConfigMap}, patch: "
    '"[{op: remove, path: /data/z}]"}]': "remove /data/z: ConfigMap settings has no such path",
    "resources: [objects.yaml]\npatches: [{target: {kind: Deployment}, patch: "
    '"{spec: {template: {spec: {containers: [{name: c}]}}}}"}]': "write this list as a JSON 6902",
    "resources: [broken.yaml]": "broken.yaml: not YAML",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_known_is_refused(tmp_path: Path, text: str) -> None:
    folder = kustomization(tmp_path, text, **{"broken.yaml": "a: [b"})
    with pytest.raises(UserError) as caught:
        render(folder)
    assert REFUSED[text] in str(caught.value)


def test_an_unknown_overlay_names_the_known() -> None:
    with pytest.raises(UserError, match=r"overlay: knid: .*airgapped, gpu-cluster, kind"):
        overlay_folder("knid")


def test_an_overlay_may_be_a_path(tmp_path: Path) -> None:
    folder = kustomization(tmp_path, f"resources: [{K8S}/overlays/kind]")
    assert len(render(overlay_folder(str(folder)))) == len(objects("kind"))


def test_the_order_can_be_applied_and_the_text_read_back() -> None:
    manifests = objects("gpu-cluster")
    kinds = [item["kind"] for item in manifests]
    for earlier, later in (
        ("Namespace", "ServiceAccount"),
        ("ServiceAccount", "RoleBinding"),
        ("ExternalSecret", "Deployment"),
        ("ConfigMap", "Job"),
        ("PriorityClass", "ResourceQuota"),
        ("ResourceFlavor", "ClusterQueue"),
        ("ClusterQueue", "LocalQueue"),
    ):
        last = len(kinds) - 1 - kinds[::-1].index(earlier)
        assert last < kinds.index(later), (earlier, later)
    assert list(yaml.safe_load_all(to_yaml(manifests))) == manifests


def test_what_kubectl_applies_is_what_is_rendered_here() -> None:
    """The comparison above is with the overlays that are there, and each says what it is for."""
    assert OVERLAYS == ["airgapped", "gpu-cluster", "kind"]
    assert one(objects("kind"), "Deployment", "vila-dashboard")["spec"]["replicas"] == 1
