"""`vila cluster check`: a complete cluster, and one thing after another taken away from it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.kube.client import Patience
from tests.api_server import ApiServer
from tests.cluster.complete import config_for, fill, node, secret, trainer, written
from vila_core.errors import UserError
from vila_ops.cli.cluster import app
from vila_ops.cluster import check as check_
from vila_ops.cluster.asked import asked_by
from vila_ops.cluster.check import examine
from vila_ops.cluster.check_nodes import nodes
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.doctor import Check

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester-secret"}


class Cluster:
    def __init__(self, server: ApiServer, config: ClusterConfig, path: Path) -> None:
        self.server, self.kube, self.config, self.path = server, server.kube, config, path

    def check(self, **more: Any) -> list[Check]:
        return list(examine(self.config, "mine", **{"pull": False, **more}))

    def only(self, **more: Any) -> Check:
        """Return the one check that is not well."""
        found = [each for each in self.check(**more) if each.level not in ("ok", "note")]
        assert len(found) == 1, found
        return found[0]

    def remove(self, version: str, kind: str, name: str, namespace: str = "kubeflow") -> None:
        self.kube.remove(version, kind, namespace, name)


@pytest.fixture
def cluster(
    api_server: ApiServer,
    s3_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Cluster:
    images = {role: f"registry.example.com/{role}:1" for role in ("data", "train", "eval", "ops")}
    endpoint = s3_environment["VILA_S3_ENDPOINT"]
    config = config_for(api_server, tmp_path, monkeypatch, endpoint, images=images)
    monkeypatch.setattr(check_, "_SHORT", Patience(2, 5, tries=1))
    fill(api_server, config, KEYS)
    from vila_ops.cluster import s3
    from vila_ops.cluster.bootstrap import bootstrap

    place = s3.Place.of(config.store.uri, endpoint, "us-east-1")
    keys = s3.Keys(*KEYS.values(), "the test")
    assert all(each.outcome != "failed" for each in bootstrap(place, keys))
    return Cluster(api_server, config, tmp_path)


def test_a_complete_cluster_lacks_nothing_and_nothing_is_left(cluster: Cluster) -> None:
    found = cluster.check(pull=True)
    assert [each for each in found if each.level != "ok"] == []
    assert {"kubernetes", "pipelines", "trainer", "room", "quota", "rights", "queue"} <= {
        each.name for each in found
    }
    assert cluster.kube.find("Pod") == []
    asked = {method for method, path in cluster.server.requests if "pods" in path}
    assert asked <= {"GET"}


def test_what_it_prints_fits_80_columns_and_the_exit_code_tells(cluster: Cluster) -> None:
    with written(cluster.config, cluster.path / "mine.yaml") as name:
        good = CliRunner().invoke(app, ["check", name])
        assert good.exit_code == 0, good.output
        assert good.output.endswith("nothing is missing\n")
        cluster.remove("v1", "ServiceAccount", "vila-step")
        bad = CliRunner().invoke(app, ["check", name])
        assert bad.exit_code == 1
        assert f"   fix: vila cluster apply {name}" in bad.output
        assert bad.output.endswith("1 missing\n")
        lines = [line for line in bad.output.splitlines() if not line.startswith("   fix: ")]
        assert max(len(line) for line in lines) <= 80
        told = json.loads(CliRunner().invoke(app, ["check", name, "--json"]).output)
        [missing] = [each for each in told if each["level"] == "error"]
        assert missing["name"] == "service account"


Take = Callable[[Cluster], object]


@pytest.mark.parametrize(
    ("take", "name", "says", "fix"),
    [
        (
            lambda c: c.remove("v1", "Secret", "vila-store-credentials"),
            "secret",
            "vila-store-credentials: is missing in kubeflow",
            "create secret generic vila-store-credentials --from-literal=AWS_ACCESS_KEY_ID=…",
        ),
        (
            lambda c: c.kube.add(secret("vila-store-credentials", "kubeflow", {"KEY": "x"})),
            "secret",
            "lacks AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (has: KEY)",
            "delete secret vila-store-credentials && kubectl",
        ),
        (
            lambda c: c.remove("v1", "ServiceAccount", "vila-step"),
            "service account",
            "there is no vila-step in kubeflow",
            "vila cluster apply mine",
        ),
        (
            lambda c: c.remove("v1", "ConfigMap", "vila-store"),
            "config map",
            "is missing",
            "vila cluster apply mine",
        ),
        (
            lambda c: c.remove("v1", "PersistentVolumeClaim", "vila-cache"),
            "claim",
            "vila-cache: is missing",
            "vila cluster apply mine",
        ),
        (
            lambda c: c.kube.set_status(
                "v1", "PersistentVolumeClaim", "kubeflow", "vila-cache", {"phase": "Pending"}
            ),
            "claim",
            "no storage class 'default'",
            "is-default-class=true",
        ),
        (
            lambda c: c.remove("kueue.x-k8s.io/v1beta2", "LocalQueue", "vila"),
            "queue",
            "no LocalQueue vila in kubeflow",
            "vila cluster apply mine",
        ),
        (
            lambda c: c.remove("scheduling.k8s.io/v1", "PriorityClass", "vila-training", ""),
            "priority class",
            "there is no vila-training",
            "vila cluster apply mine",
        ),
        (
            lambda c: c.remove(
                "trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime", "vila-torch", ""
            ),
            "training runtime",
            "there is no vila-torch",
            "vila cluster apply mine",
        ),
        (
            lambda c: c.kube.version.update(gitVersion="v1.29.3"),
            "kubernetes",
            "v1.29.3 is older than 1.31",
            "upgrade the cluster",
        ),
        (
            lambda c: c.kube.add(trainer("v2.1.0")),
            "trainer",
            "v2.1.0; tested with v2.3.0",
            "manifests/overlays/manager?ref=v2.3.0",
        ),
        (
            lambda c: c.kube.add(trainer(running=0)),
            "trainer",
            "its controller does not run",
            "describe pods",
        ),
        (
            lambda c: setattr(c.server.kfp, "version", "2.4.0"),
            "pipelines",
            "2.4.0; tested with 2.17.0",
            "kustomize/env/platform-agnostic?ref=2.17.0",
        ),
        (
            lambda c: setattr(c.server.kfp, "healthy", False),
            "pipelines",
            "the database is not reachable",
            "get pods -l app=ml-pipeline",
        ),
        (
            lambda c: c.remove("v1", "Service", "vila-dashboard", "vila"),
            "services",
            "missing: Service vila/vila-dashboard",
            "vila cluster apply mine",
        ),
        (
            lambda c: c.kube.set_status("apps/v1", "Deployment", "vila", "vila-dashboard", {}),
            "services",
            "Deployment vila/vila-dashboard: 0 of 2 ready",
            "describe pods -l app.kubernetes.io/name=vila-dashboard",
        ),
        (
            lambda c: c.server.deny("list", "events"),
            "your rights",
            "in kubeflow you may not list events",
            "create rolebinding vila-users --role vila-user",
        ),
    ],
)
def test_each_thing_that_is_missing_has_its_command(
    cluster: Cluster, take: Take, name: str, says: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    take(cluster)
    found = cluster.only()
    assert found.name == name
    assert says in found.detail
    assert fix in found.fix


def test_crds_that_are_not_installed(cluster: Cluster) -> None:
    for place in [place for place in cluster.kube.kinds if "." in place[0]]:
        if place[0] in ("trainer.kubeflow.org", "kueue.x-k8s.io", "argoproj.io"):
            del cluster.kube.kinds[place]
    found = {each.name: each for each in cluster.check() if each.level in ("error", "warning")}
    assert found["CRD trainjobs"].level == "warning"  # no task of this config has several nodes
    assert "kubeflow/trainer.git" in found["CRD trainjobs"].fix
    assert found["CRD localqueues"].level == "error"
    assert "kueue/releases" in found["CRD localqueues"].fix
    assert "pipelines/manifests" in found["CRD workflows"].fix
    assert found["queue"].detail == "Kueue is not installed"


def _gpus(cluster: Cluster, count: int, **more: Any) -> None:
    for number in (1, 2):
        cluster.kube.add(node(f"gpu-{number}", count, **more))


def test_nodes_without_room_for_a_task(cluster: Cluster) -> None:
    def room() -> Check:
        found = nodes(kubernetes_api(cluster.config), asked_by(cluster.config, None, ()))
        return next(each for each in found if each.name == "room" and each.level != "ok")

    _gpus(cluster, 4)
    assert "align, pretrain, sft" in room().detail
    assert "the most that a node has is 4 nvidia.com/gpu" in room().detail
    assert "set tasks.align.gpu.count to at most 4" in room().fix
    _gpus(cluster, 0)
    assert "install the device plugin" in room().fix
    _gpus(cluster, 8, memory="256Gi")
    assert "the most that a node has is 256 GiB memory" in room().detail
    assert "lower tasks.align.memory" in room().fix
    taint = {"key": "dedicated", "value": "other", "effect": "NoSchedule"}
    _gpus(cluster, 8, spec={"taints": [taint]})
    cluster.kube.remove("v1", "Node", "", "cpu-1")
    assert "all 2 nodes are tainted: dedicated" in room().detail
    assert "{key: dedicated}" in room().fix


def test_a_gpu_of_another_product(cluster: Cluster) -> None:
    tasks = dict(cluster.config.tasks)
    gpu = {"gpu": {"count": 8, "product": "NVIDIA-B200"}}
    tasks["align"] = {**tasks["align"], **gpu}
    cluster.config = cluster.config.model_copy(update={"tasks": tasks})
    found = cluster.only()
    assert "no node has the labels nvidia.com/gpu.product=NVIDIA-B200" in found.detail
    assert "NVIDIA-H100-80GB-HBM3" in found.detail


def test_nodes_that_take_no_pods(cluster: Cluster) -> None:
    cluster.kube.add(node("gpu-3", 8, ready="Unknown"))
    found = cluster.only()
    assert (found.name, found.level) == ("nodes", "warning")
    assert "not ready or cordoned: gpu-3" in found.detail


def _quota(hard: dict[str, str], used: dict[str, str]) -> dict[str, Any]:
    meta = {"name": "team", "namespace": "kubeflow"}
    status = {"hard": hard, "used": used}
    kind = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta}
    return {**kind, "spec": {"hard": hard}, "status": status}


def test_quotas_and_limits_against_what_tasks_ask_for(cluster: Cluster) -> None:
    cluster.kube.add(_quota({"requests.nvidia.com/gpu": "4"}, {}))
    found = cluster.only()
    assert (found.name, found.level) == ("quota", "error")
    assert "align, pretrain, sft: 8 of 4 requests.nvidia.com/gpu" in found.detail
    assert "edit resourcequota team" in found.fix
    cluster.kube.add(_quota({"requests.memory": "1Ti"}, {"requests.memory": "900Gi"}))
    found = cluster.only()
    assert (found.name, found.level) == ("quota", "warning")
    assert "512 GiB of 1,024 GiB requests.memory, 900 GiB in use" in found.detail
    cluster.kube.add(_quota({"requests.memory": "4Ti"}, {}))
    limits = {"limits": [{"type": "Container", "max": {"memory": "128Gi"}}]}
    meta = {"name": "small", "namespace": "kubeflow"}
    kind = {"apiVersion": "v1", "kind": "LimitRange", "metadata": meta}
    cluster.kube.add({**kind, "spec": limits})
    found = cluster.only()
    assert (found.name, found.level) == ("limits", "error")
    assert "align, pretrain, sft: 512 GiB memory" in found.detail


def test_a_recipe_on_several_nodes_needs_trainer_and_nodes(cluster: Cluster) -> None:
    def many(nodes: int) -> dict[str, Any]:
        return {"recipe": "vila-7b", "overrides": [f"pretrain.train.nodes={nodes}"]}

    found = cluster.only(**many(4))
    assert "8 nvidia.com/gpu on each of 4 nodes: fits on 2 only" in found.detail
    assert "pretrain.train.nodes=2" in found.fix
    cluster.remove("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime", "vila-torch", "")
    missing = cluster.only(**many(2))
    assert (missing.name, missing.level) == ("training runtime", "error")


def test_a_recipe_by_its_name(cluster: Cluster) -> None:
    rooms = [each.detail for each in cluster.check(recipe="vila-7b") if each.name == "room"]
    assert any("evaluate-base" in detail for detail in rooms)
    with pytest.raises(UserError, match="there is no recipe"):
        cluster.check(recipe="vila-8b")


def test_what_cant_be_looked_at_is_said(cluster: Cluster) -> None:
    for resource in ("nodes", "resourcequotas"):
        cluster.server.deny("list", resource)
    cluster.server.deny("get", "secrets")
    found = {each.name: each for each in cluster.check() if each.level != "ok"}
    assert {each.level for each in found.values()} == {"unknown"}
    assert "can-i list nodes" in found["nodes"].fix
    assert "you may not read Secrets in kubeflow" in found["secret"].detail
    assert "export AWS_ACCESS_KEY_ID=…" in found["store"].fix


def test_without_the_api_the_store_is_still_looked_at(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    expired = cluster.server.kubeconfig(tmp_path / "expired", token="old")
    monkeypatch.setenv("KUBECONFIG", str(expired))
    found = {each.name: each for each in cluster.check()}
    assert found["kubernetes"].level == "error"
    assert "credentials have expired" in found["kubernetes"].detail
    assert found["the rest"].level == "unknown"
    assert found["rights"].detail.startswith("write, read, list, create only")


@pytest.fixture
def kubelet(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """Give every probe pod the container state that the test puts here."""
    state: dict[str, Any] = {}
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.02):
            for pod in cluster.kube.find("Pod"):
                name, status = pod["metadata"]["name"], pod.get("status") or {}
                if state and "containerStatuses" not in status:
                    told = {"name": "check", "state": state["state"]}
                    told |= {"imageID": state.get("imageID", "")}
                    cluster.kube.set_status(
                        "v1", "Pod", "kubeflow", name, {"containerStatuses": [told]}
                    )

    for name in ("cpu-1", "gpu-1", "gpu-2"):
        found = cluster.kube.get("v1", "Node", "", name)
        assert found
        found["status"]["images"] = []
        cluster.kube.add(found)
    thread = threading.Thread(target=run)
    thread.start()
    yield state
    ended.set()
    thread.join()


def test_images_are_pulled_by_pods_that_are_removed(
    cluster: Cluster, kubelet: dict[str, Any]
) -> None:
    old = {"name": "vila-check-old", "namespace": "kubeflow", "labels": {"vila.dev/check": "image"}}
    spec = {"containers": [{"name": "check", "image": "x"}]}
    cluster.kube.add({"apiVersion": "v1", "kind": "Pod", "metadata": old, "spec": spec})
    kubelet.update(state={"terminated": {"exitCode": 0}}, imageID="sha256:1")
    found = [each for each in cluster.check(pull=True) if each.name.startswith("image")]
    assert {each.level for each in found} == {"ok"}
    assert len(found) == 4
    assert cluster.kube.find("Pod") == []


def test_an_image_that_nodes_cant_pull(cluster: Cluster, kubelet: dict[str, Any]) -> None:
    waiting = {"reason": "ErrImagePull", "message": "manifest unknown: not found"}
    kubelet.update(state={"waiting": waiting})
    bad = [each for each in cluster.check(pull=True) if each.level != "ok"]
    assert {each.level for each in bad} == {"error"}
    assert len(bad) == 4
    assert "registry.example.com/data:1: ErrImagePull: manifest unknown" in bad[0].detail
    assert "push it" in bad[0].fix
    assert cluster.kube.find("Pod") == []


def test_a_pull_that_takes_long_and_one_that_is_not_tried(
    cluster: Cluster, kubelet: dict[str, Any]
) -> None:
    del kubelet
    begun = time.monotonic()
    slow = [each for each in cluster.check(pull=True, pull_limit_s=0.1) if each.level != "ok"]
    assert {each.level for each in slow} == {"warning"}
    assert time.monotonic() - begun < 10
    assert cluster.kube.find("Pod") == []
    untried = [each for each in cluster.check(pull=False) if each.level != "ok"]
    assert {each.level for each in untried} == {"unknown"}
    never = cluster.config.model_copy(update={"image_pull_policy": "Never"})
    cluster.config = never
    absent = [each for each in cluster.check(pull=True) if each.level != "ok"]
    assert {each.level for each in absent} == {"error"}
    assert "kind load docker-image" in absent[0].fix
