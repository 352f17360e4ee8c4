"""What a cluster's config says is in its objects, and what it names its overlay has."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.rendered import OVERLAYS, objects, one
from vila_core.errors import UserError
from vila_ops.cluster.config import ClusterConfig, cluster_files, load_cluster
from vila_ops.cluster.generate import generated
from vila_ops.cluster.manifests import manifests
from vila_ops.cluster.references import dangling, secrets_by_hand
from vila_ops.cluster.render import containers_of, pod_specs

CLUSTERS = sorted(cluster_files())


def config(name: str, **values: Any) -> ClusterConfig:
    return ClusterConfig.model_validate(load_cluster(name).model_dump() | values)


def test_every_overlay_has_a_cluster() -> None:
    assert CLUSTERS == OVERLAYS
    assert [load_cluster(name).overlay for name in CLUSTERS] == OVERLAYS


@pytest.mark.parametrize("name", CLUSTERS)
def test_overlay_and_config_say_the_same(name: str) -> None:
    """`kubectl apply -k` gives what `vila cluster apply` gives, but for how images are pulled."""
    made = manifests(load_cluster(name))
    for item in made:
        for container in containers_of(item):
            container["imagePullPolicy"] = "IfNotPresent"
        for spec in pod_specs(item):
            spec.pop("imagePullSecrets", None)
    assert made == objects(name)


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_a_config_names_is_there(name: str) -> None:
    cluster = load_cluster(name)
    made = manifests(cluster)

    def names(kind: str) -> set[str]:
        return {
            item["metadata"]["name"]
            for item in made
            if item["kind"] == kind
            and item["metadata"].get("namespace", cluster.namespace) == cluster.namespace
        }

    assert {cluster.service_account, cluster.nodes.service_account} <= names("ServiceAccount")
    assert cluster.queue in names("LocalQueue")
    assert cluster.cache_claim in names("PersistentVolumeClaim")
    assert cluster.store.config_map in names("ConfigMap")
    assert cluster.nodes.runtime in names("ClusterTrainingRuntime")
    wanted = {cluster.place(task, task).priority_class for task in cluster.tasks} - {None}
    assert wanted <= names("PriorityClass") & names("WorkloadPriorityClass")
    assert (cluster.store.secret in names("Secret") | names("ExternalSecret")) == (
        name != "airgapped"
    )


def test_everything_can_be_elsewhere() -> None:
    cluster = config(
        "gpu-cluster",
        namespace="team-a",
        kfp={"namespace": "kfp"},
        store={"uri": "s3://b/p", "endpoint": "https://s3.example.org", "region": "eu-1"},
        images={role: f"r.example.org/x/{role}@sha256:12" for role in ("data", "train", "eval")}
        | {"ops": "r.example.org/x/ops:7"},
        image_pull_policy="Always",
        image_pull_secrets=["pull"],
    )
    made = manifests(cluster)
    assert {item["metadata"].get("namespace") for item in made} == {None, "vila", "team-a"}
    assert one(made, "ClusterQueue", "vila")["spec"]["namespaceSelector"] == {
        "matchLabels": {"kubernetes.io/metadata.name": "team-a"}
    }
    binding = one(made, "RoleBinding", "vila-train")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "vila-train", "namespace": "team-a"}
    ]
    peers = one(made, "NetworkPolicy", "vila-to-kfp")["spec"]["egress"]
    assert {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for rule in peers
        for peer in rule["to"]
    } == {"kfp"}
    for item in made:
        if (item["kind"], item["metadata"]["name"]) == ("ConfigMap", "vila-store"):
            assert item["data"] == {
                "VILA_STORE": "s3://b/p",
                "VILA_S3_ENDPOINT": "https://s3.example.org",
                "AWS_REGION": "eu-1",
            }
    pod = one(made, "Deployment", "vila-dashboard")["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["containers"][0]["image"] == "r.example.org/x/ops:7"
    assert pod["containers"][0]["imagePullPolicy"] == "Always"
    (node,) = containers_of(one(made, "ClusterTrainingRuntime", "vila-torch"))
    assert node["image"] == "r.example.org/x/train@sha256:12"


@pytest.mark.parametrize(("address", "port"), [("http://10.1.2.3:7480", 7480), ("http://s3", 80)])
def test_policies_open_the_stores_port(address: str, port: int) -> None:
    store = load_cluster("gpu-cluster").store.model_dump()
    made = manifests(config("gpu-cluster", store=store | {"endpoint": address}))
    for name in ("to-store", "vila-to-store"):
        (rule,) = one(made, "NetworkPolicy", name)["spec"]["egress"]
        assert {"port": port} in rule["ports"]


def test_queue_and_cache_may_be_left_out() -> None:
    def kinds(**values: Any) -> set[str]:
        made = manifests(config("kind", tasks={}, **values))
        assert dangling(made) == []
        return {item["kind"] for item in made if item["metadata"]["name"] != "vila-bootstrap"}

    kueue = {"LocalQueue", "ClusterQueue", "ResourceFlavor", "WorkloadPriorityClass"}
    whole = kinds()
    assert whole - kinds(queue=None) == kueue
    assert whole - kinds(cache_claim=None) == {"PersistentVolumeClaim", "Job"}
    assert whole - kinds(cache_claim="another") == {"PersistentVolumeClaim", "Job"}


def test_all_in_one_namespace() -> None:
    made = manifests(config("kind", namespace="vila"))
    assert {item["metadata"].get("namespace") for item in made} == {None, "vila"}
    assert dangling(made) == []


def environment(made: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (container,) = containers_of(one(made, kind, name))
    return {variable["name"]: variable for variable in container["env"]}


def test_credentials_of_another_name_or_none() -> None:
    store = load_cluster("gpu-cluster").store.model_dump()
    other = manifests(config("gpu-cluster", store=store | {"secret": "s3-key"}))
    assert dangling(other) == []
    assert not [item for item in other if item["metadata"]["name"] == "vila-store-credentials"]
    key = environment(other, "Deployment", "vila-dashboard")["AWS_ACCESS_KEY_ID"]
    assert key["valueFrom"]["secretKeyRef"]["name"] == "s3-key"
    none = manifests(config("gpu-cluster", store=store | {"secret": None}))
    assert dangling(none) == []
    for kind, name in (("Deployment", "vila-dashboard"), ("Job", "vila-bootstrap")):
        assert not [key for key in environment(none, kind, name) if key.startswith("AWS_")]


def secrets(made: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
    return {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["stringData"]
        for item in made
        if item["kind"] == "Secret"
    }


def test_secrets_are_made_once_and_alike_in_every_namespace() -> None:
    first = secrets(generated(objects("kind"), lambda namespace, name: None))
    assert first.keys() == {
        ("vila", "vila-minio-root"),
        ("vila", "vila-store-credentials"),
        ("kubeflow", "vila-store-credentials"),
        ("vila", "vila-dashboard-tokens"),
    }
    credentials = first["vila", "vila-store-credentials"]
    assert credentials == first["kubeflow", "vila-store-credentials"]
    assert len(credentials["AWS_ACCESS_KEY_ID"]) == 20
    assert len(credentials["AWS_SECRET_ACCESS_KEY"]) == 40
    values = [value for data in first.values() for value in data.values()]
    assert len(set(values)) == 6

    def there(namespace: str, name: str) -> Mapping[str, str] | None:
        if namespace == "kubeflow":  # deleted there: it comes back with the values of the other
            return None
        data = first[namespace, name]
        return {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}

    assert secrets(generated(objects("kind"), there)) == first


def test_two_namespaces_with_different_values_are_told() -> None:
    def there(namespace: str, name: str) -> Mapping[str, str] | None:
        return {"AWS_ACCESS_KEY_ID": base64.b64encode(namespace.encode()).decode()}

    with pytest.raises(UserError, match="vila-store-credentials: AWS_ACCESS_KEY_ID differs"):
        generated(objects("kind"), there)


def test_the_dashboard_takes_the_token_that_is_made(tmp_path: Path) -> None:
    from vila_ops.web.roles import Role, Viewer
    from vila_ops.web.tokens import Tokens

    made = secrets(generated(objects("kind"), lambda namespace, name: None))
    data = made["vila", "vila-dashboard-tokens"]
    (tmp_path / "tokens").write_text(data["tokens"])
    tokens = Tokens(tmp_path / "tokens")
    found = tokens.of(data["token"])
    assert found is not None
    assert found.viewer == Viewer("admin", Role.admin)
    assert tokens.of("another") is None
    assert data["token"] not in data["tokens"]


def test_the_authority_of_the_stores_certificate() -> None:
    store = load_cluster("airgapped").store.model_dump()
    made = manifests(config("airgapped", store=store | {"ca_secret": "house-ca"}))
    assert dangling(made) == []
    assert ("vila", "house-ca") in secrets_by_hand(made)
    for kind, name in (("Deployment", "vila-dashboard"), ("Job", "vila-bootstrap")):
        assert environment(made, kind, name)["AWS_CA_BUNDLE"]["value"] == "/etc/vila/ca/ca.crt"
