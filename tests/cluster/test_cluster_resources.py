"""What a cluster gives each task, in the documents that KFP takes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.assembled import Node, compile_nodes
from pipelines.compile import COMPILED
from tests.cluster.places import ROOT
from vila_core.errors import UserError
from vila_ops.cluster import resources
from vila_ops.cluster.config import ClusterConfig, load_cluster
from vila_ops.driver.graph import load_graph

BASE: dict[str, Any] = {
    "store": {"uri": "s3://vila/platform", "endpoint": "http://minio:9000"},
    "images": {role: f"registry.example/{role}:1" for role in ("data", "train", "eval", "ops")},
}


def config(**more: Any) -> ClusterConfig:
    return ClusterConfig.model_validate({**BASE, **more})


def documents(name: str = "recipe", cluster: ClusterConfig | None = None, **more: Any):
    spec = yaml.safe_load((COMPILED / f"{name}.yaml").read_text())
    made, platforms = resources.cluster_documents(spec, cluster or config(), **more)
    return made, platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_a_task_gets_its_image_resources_and_place():
    made, kubernetes = documents(cluster=load_cluster("gpu-cluster"))
    container = made["deploymentSpec"]["executors"]["exec-align"]["container"]
    assert container["image"] == "registry.example.com/vila-platform/train:latest"
    assert container["resources"] == {
        "cpuLimit": 32.0,
        "cpuRequest": 32.0,
        "memoryLimit": 549.755813888,
        "memoryRequest": 549.755813888,
        "resourceCpuLimit": "32",
        "resourceCpuRequest": "32",
        "resourceMemoryLimit": "512Gi",
        "resourceMemoryRequest": "512Gi",
        "accelerator": {
            "count": "8",
            "type": "nvidia.com/gpu",
            "resourceCount": "8",
            "resourceType": "nvidia.com/gpu",
        },
    }
    assert made["root"]["dag"]["tasks"]["align"]["retryPolicy"] == {
        "maxRetryCount": 5,
        "backoffDuration": "60s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "3600s",
    }
    align = kubernetes["exec-align"]
    assert align["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert align["podMetadata"]["labels"] == {
        "vila.dev/task": "align",
        "kueue.x-k8s.io/queue-name": "vila",
        "kueue.x-k8s.io/priority-class": "vila-training",
    }
    assert align["securityContext"] == {
        "runAsUser": "10001",
        "runAsGroup": "10001",
        "runAsNonRoot": True,
    }
    mounts = {each["mountPath"]: each for each in align["emptyDirMounts"]}
    assert mounts["/dev/shm"] == {
        "volumeName": "vila-shm",
        "mountPath": "/dev/shm",
        "medium": "Memory",
        "sizeLimit": "64Gi",
    }
    assert mounts["/var/cache/vila/work"]["sizeLimit"] == "1Ti"
    assert [each["mountPath"] for each in align["pvcMount"]] == ["/var/cache/vila"]
    secrets = {each["secretName"]: each["keyToEnv"] for each in align["secretAsEnv"]}
    assert [pair["envVar"] for pair in secrets["vila-store-credentials"]] == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ]
    assert kubernetes["exec-prepare"]["activeDeadlineSeconds"] == "86400"
    assert (
        "accelerator"
        not in (made["deploymentSpec"]["executors"]["exec-prepare"]["container"]["resources"])
    )


def test_everything_that_may_be_set_lands_in_the_documents():
    made, kubernetes = documents(
        cluster=config(
            queue="vila",
            image_pull_policy="Always",
            image_pull_secrets=["registry"],
            volumes=[{"claim": "corpora", "path": "/data"}],
            store={**BASE["store"], "config_map": None, "secret": None, "ca_secret": "s3-ca"},
            tracking={"wandb_secret": "wandb"},
            defaults={
                "gpu": {"count": 1, "resource": "amd.com/gpu", "product": "MI300X"},
                "node_selector": {"disk": "nvme"},
                "scratch": "100Gi",
                "scratch_class": "local-path",
                "env": {"NCCL_DEBUG": "WARN"},
            },
        )
    )
    for label, found in kubernetes.items():
        env = made["deploymentSpec"]["executors"][label]["container"]["env"]
        assert {each["name"]: each["value"] for each in env} == {
            "NCCL_DEBUG": "WARN",
            "VILA_CACHE": "/var/cache/vila",
            "VILA_S3_ENDPOINT": "http://minio:9000",
            "AWS_REGION": "us-east-1",
            "AWS_CA_BUNDLE": "/etc/vila/ca/ca.crt",
        }
        assert found["imagePullPolicy"] == "Always"
        assert found["imagePullSecret"][0]["secretName"] == "registry"
        assert found["nodeSelector"] == {
            "labels": {"disk": "nvme", "nvidia.com/gpu.product": "MI300X"}
        }
        assert found["pvcMount"][0]["mountPath"] == "/data"
        assert found["secretAsVolume"][0]["mountPath"] == "/etc/vila/ca"
        assert [each["secretName"] for each in found["secretAsEnv"]] == ["wandb"]
        assert "configMapAsEnv" not in found
        assert found["genericEphemeralVolume"][0]["storageClassName"] == "local-path"
        paths = {each["name"]: each["fieldPath"] for each in found["fieldPathAsEnv"]}
        assert paths["VILA_KFP_RUN"] == "metadata.labels['pipeline/runid']"


@pytest.mark.parametrize("name", ["recipe", "prepare_parallel"])
@pytest.mark.parametrize("cluster", ["kind", "gpu-cluster"])
def test_kfp_loads_both_documents(name: str, cluster: str):
    from kfp import components

    spec = yaml.safe_load((COMPILED / f"{name}.yaml").read_text())
    text = resources.cluster_yaml(spec, load_cluster(cluster))
    assert text == resources.cluster_yaml(spec, load_cluster(cluster)), "the same bytes again"
    loaded: Any = components.load_component_from_text(text)
    wanted = {
        component["executorLabel"]
        for component in loaded.pipeline_spec
        and yaml.safe_load_all(text).__next__()["components"].values()
        if "executorLabel" in component
    }
    kubernetes = loaded.platform_spec.platforms["kubernetes"].deployment_spec.executors
    assert set(kubernetes) == wanted


def test_what_kfp_compiles_itself_has_the_same_shape():
    """The names and types of the documents are those that kfp-kubernetes writes."""
    from kfp import compiler, dsl, kubernetes

    @dsl.component(base_image="vila-platform/train:latest", install_kfp_package=False)
    def sft(out: dsl.Output[dsl.Model]):
        pass

    def pipeline(given: bool) -> Any:
        @dsl.pipeline(name="p")
        def p():
            task = sft()
            if not given:
                return
            task.set_cpu_limit("4").set_cpu_request("4")
            task.set_memory_limit("16Gi").set_memory_request("16Gi")
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
            task.set_retry(1, "60s", 2.0, "3600s")
            task.set_env_variable("VILA_CACHE", resources.CACHE)
            kubernetes.set_image_pull_policy(task, "IfNotPresent")
            kubernetes.add_pod_label(task, "vila.dev/task", "sft")
            kubernetes.add_pod_annotation(
                task, "cluster-autoscaler.kubernetes.io/safe-to-evict", "false"
            )
            kubernetes.set_security_context(
                task, run_as_user=10001, run_as_group=10001, run_as_non_root=True
            )
            kubernetes.set_timeout(task, 60)
            kubernetes.mount_pvc(task, "vila-cache", resources.CACHE)
            kubernetes.empty_dir_mount(
                task, "vila-shm", "/dev/shm", medium="Memory", size_limit="1Gi"
            )
            keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            kubernetes.use_secret_as_env(task, "vila-store-credentials", {key: key for key in keys})
            kubernetes.use_config_map_as_env(
                task, "vila-store", {key: key for key in ("VILA_S3_ENDPOINT", "AWS_REGION")}
            )
            for name, path in resources.FIELDS.items():
                kubernetes.use_field_path_as_env(task, name, path)

        return p

    def compiled(given: bool) -> list[Any]:
        path = Path("p.yaml")
        compiler.Compiler().compile(pipeline(given), str(path))
        return list(yaml.safe_load_all(path.read_text()))

    wanted = config(
        cache_claim="vila-cache",
        defaults={
            "cpu": "4",
            "memory": "16Gi",
            "gpu": {"count": 2},
            "shm": "1Gi",
            "retries": 1,
            "timeout_s": 60,
        },
        images={**BASE["images"], "train": "vila-platform/train:latest"},
    )
    (plain,) = compiled(False)
    assert list(resources.cluster_documents(plain, wanted)) == compiled(True)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def test_an_executor_that_tasks_share_is_split(tmp_path: Path):
    nodes = [
        Node("tower-a", "vision_tower"),
        Node("tower-b", "vision_tower"),
    ]
    compile_nodes("grid", nodes, tmp_path / "grid.yaml")
    spec = yaml.safe_load((tmp_path / "grid.yaml").read_text())
    first = spec["root"]["dag"]["tasks"]["vision-tower"]["componentRef"]
    spec["root"]["dag"]["tasks"]["vision-tower-2"]["componentRef"] = dict(first)
    cluster = config(tasks={"tower-b": {"memory": "64Gi"}})
    made, platforms = resources.cluster_documents(spec, cluster)
    kubernetes = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {}
    for node in made["root"]["dag"]["tasks"].values():
        label = made["components"][node["componentRef"]["name"]]["executorLabel"]
        memory = made["deploymentSpec"]["executors"][label]["container"]["resources"]
        name = kubernetes[label]["podMetadata"]["labels"]["vila.dev/task"]
        found[name] = memory["resourceMemoryLimit"]
    assert found == {"tower-a": "8Gi", "tower-b": "64Gi"}


def test_a_task_on_several_nodes_is_small_itself_and_its_nodes_have_the_place():
    cluster = load_cluster("gpu-cluster")
    made, kubernetes = documents(cluster=cluster, relays=["sft"])
    container = made["deploymentSpec"]["executors"]["exec-sft"]["container"]
    assert container["resources"]["resourceMemoryLimit"] == "4Gi"
    assert "accelerator" not in container["resources"]
    assert "tolerations" not in kubernetes["exec-sft"]
    place = resources.trainjob_place(cluster, "sft", "sft")
    assert place.resources["limits"] == {"cpu": "32", "memory": "512Gi", "nvidia.com/gpu": "8"}
    assert place.pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert place.pod["priorityClassName"] == "vila-training"
    names = {volume["name"] for volume in place.pod["volumes"]}
    assert {mount["name"] for mount in place.volume_mounts} == names
    assert {"vila-shm", "vila-work", "vila-cache"} == names
    env = {each["name"]: each for each in place.env}
    assert env["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["name"] == "vila-store-credentials"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tasks": {"sft": {"priority_class": "high"}}}, "needs `queue`"),
        ({"tasks": {"sft": {"scratch_class": "fast"}}}, "needs `scratch`"),
        ({"tasks": {"sft": {"memory": "64 GB"}}}, "quantity"),
        ({"tasks": {"sft": {"gpus": 8}}}, "gpus"),
    ],
)
def test_a_config_that_would_be_ignored_is_refused(values: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        config(**values)


def test_a_pipeline_that_is_none_of_ours_is_refused(tmp_path: Path):
    spec = load_graph(COMPILED / "recipe.yaml").spec
    text = yaml.safe_dump(dict(spec)).replace("vila-platform/ops:latest", "python:3.11")
    with pytest.raises(UserError, match=r"the image python:3\.11, which is of no role"):
        resources.cluster_documents(yaml.safe_load(text), config())


def test_a_quantity_is_read_as_kubernetes_does():
    assert [resources._number(text) for text in ("500m", "2", "1.5Gi", "3G")] == [
        0.5,
        2.0,
        1.5 * 2**30,
        3e9,
    ]


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, vila_ops.cluster.submit, vila_ops.cluster.follow, vila_ops.cluster.resources;"
        "print(sorted({'kfp', 'kubernetes', 'kfp_server_api', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.stdout.strip() == "[]"
