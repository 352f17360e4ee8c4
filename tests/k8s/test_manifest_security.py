"""Every pod is restricted, rights are the least, nothing secret is kept, traffic is denied."""

from __future__ import annotations

from typing import Any

import pytest

from tests.k8s.rendered import K8S, OVERLAYS, objects, one
from vila_ops.cluster.generate import GENERATE
from vila_ops.cluster.references import selects
from vila_ops.cluster.render import containers_of, pod_specs

EVERY = [(overlay, item) for overlay in OVERLAYS for item in objects(overlay)]
PODS = [
    pytest.param(spec, id=f"{overlay}-{item['metadata']['name']}")
    for overlay, item in EVERY
    for spec in pod_specs(item)
]


def test_there_are_pods() -> None:
    names = {item["metadata"]["name"] for _, item in EVERY if pod_specs(item)}
    assert names == {"vila-dashboard", "vila-bootstrap", "vila-cache", "vila-torch", "minio"}


@pytest.mark.parametrize("spec", PODS)
def test_pods_are_restricted(spec: dict[str, Any]) -> None:
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == pod["runAsGroup"] == 10001
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}
    for container in containers_of(spec):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not own.keys() & {"privileged", "procMount", "runAsUser"}
        assert not any("hostPort" in port for port in container.get("ports", []))
    for volume in spec["volumes"]:
        kinds = volume.keys() - {"name"}
        assert kinds <= {"emptyDir", "secret", "configMap", "persistentVolumeClaim", "projected"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_say_what_they_need_and_may_use(overlay: str) -> None:
    for item in objects(overlay):
        if item["kind"] == "ClusterTrainingRuntime":
            continue  # the TrainJob says it
        for container in containers_of(item):
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_enforces_it(overlay: str) -> None:
    labels = one(objects(overlay), "Namespace", "vila")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


RIGHTS = {
    "vila-step": {
        ("argoproj.io", "workflowtaskresults", "create patch"),
        ("", "configmaps:kfp-launcher", "get"),
        ("", "secrets:mlpipeline-minio-artifact", "get"),
        ("", "pods", "get list watch"),
    },
    "vila-train": {
        ("trainer.kubeflow.org", "trainjobs", "create delete get list watch"),
        ("", "pods/log", "get"),
    },
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rights_are_the_least(overlay: str) -> None:
    manifests = objects(overlay)
    for name, expected in RIGHTS.items():
        found = set()
        for rule in one(manifests, "Role", name)["rules"]:
            names = "".join(f":{item}" for item in rule.get("resourceNames", []))
            for resource in rule["resources"]:
                (group,) = rule["apiGroups"]
                found.add((group, resource + names, " ".join(sorted(rule["verbs"]))))
        assert found == expected
    for item in manifests:
        assert item["kind"] not in ("ClusterRole", "ClusterRoleBinding")
        for rule in item.get("rules", []):
            assert "*" not in [*rule.get("verbs", []), *rule.get("resources", [])]
            if "secrets" in rule.get("resources", []):
                assert rule["resourceNames"]
    bound = {
        item["metadata"]["name"]: {subject["name"] for subject in item["subjects"]}
        for item in manifests
        if item["kind"] == "RoleBinding"
    }
    assert bound == {"vila-step": {"vila-step", "vila-train"}, "vila-train": {"vila-train"}}


def test_no_value_of_a_secret_is_kept() -> None:
    secrets = [item for _, item in EVERY if item["kind"] == "Secret"]
    assert secrets
    for item in secrets:
        assert not item.keys() & {"data", "stringData"}
        assert item["metadata"]["annotations"][GENERATE]
    for path in K8S.rglob("*.yaml"):
        assert "stringData" not in path.read_text(), path


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_traffic_is_denied_by_default(overlay: str) -> None:
    manifests = objects(overlay)
    policies = [item for item in manifests if item["kind"] == "NetworkPolicy"]
    services = one(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert services == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    runs = one(manifests, "NetworkPolicy", "vila-default-deny")["spec"]
    assert runs["policyTypes"] == ["Ingress", "Egress"]
    assert runs.keys() == {"podSelector", "policyTypes"}
    for (
        policy
    ) in policies:  # every rule says with whom, and all but those between nodes on what port
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                assert rule[peers]
                assert rule.get("ports") or policy["metadata"]["name"] == "vila-nodes"


def blocks(overlay: str) -> set[str]:
    return {
        peer["ipBlock"]["cidr"]
        for item in objects(overlay)
        if item["kind"] == "NetworkPolicy"
        for rule in item["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    }


def test_only_wandb_opens_the_internet() -> None:
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.20.10/32"}
    assert blocks("kind") <= private
    assert blocks("airgapped") <= private
    assert blocks("gpu-cluster") - private == {"0.0.0.0/0"}
    (rule,) = one(objects("gpu-cluster"), "NetworkPolicy", "vila-to-wandb")["spec"]["egress"]
    assert rule["ports"] == [{"port": 443}]
    assert {"10.0.0.0/8", "172.16.0.0/12"} <= set(rule["to"][0]["ipBlock"]["except"])


def allowed(overlay: str, labels: dict[str, str]) -> set[str]:

    return {
        item["metadata"]["name"]
        for item in objects(overlay)
        if item["kind"] == "NetworkPolicy"
        and item["metadata"]["namespace"] == "kubeflow"
        and selects(item["spec"]["podSelector"], labels)
    }


def test_what_a_task_and_what_a_node_may_reach() -> None:
    task = {"vila.dev/task": "sft", "pipelines.kubeflow.org/v2_component": "true"}
    both = {"vila-default-deny", "vila-to-dns", "vila-to-store"}
    assert allowed("kind", task) == both | {"vila-to-kfp", "vila-to-kubernetes-api"}
    assert allowed("kind", {**task, "vila.dev/node": "true"}) == both | {"vila-nodes"}
    assert allowed("kind", {"app": "ml-pipeline"}) == set()


def test_a_quota_does_not_touch_kfps_own_pods() -> None:
    """CPU and memory of a namespace without a scope would make every pod of KFP state them."""
    for item in objects("gpu-cluster"):
        if item["kind"] == "ResourceQuota" and item["metadata"]["namespace"] == "kubeflow":
            hard = item["spec"]["hard"]
            assert "scopeSelector" in item["spec"] or not any(
                name.endswith(("cpu", "memory")) or name == "pods" for name in hard
            )
        if item["kind"] == "LimitRange" and item["metadata"]["namespace"] == "kubeflow":
            assert [limit["type"] for limit in item["spec"]["limits"]] == ["PersistentVolumeClaim"]
