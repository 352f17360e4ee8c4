"""A cluster on the test API server with everything that runs need, to take things away from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api_server import ApiServer
from vila_ops.cluster.config import ClusterConfig, load_cluster
from vila_ops.cluster.generate import generated
from vila_ops.cluster.manifests import manifests

GPU_LABELS = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.present": "true"}


def node(name: str, gpus: int = 0, cpu: str = "64", memory: str = "1Ti", **more: Any) -> Any:
    """Return a ready Node; `more` are parts of its spec and status."""
    allocatable = {"cpu": cpu, "memory": memory, "pods": "110"}
    if gpus:
        allocatable["nvidia.com/gpu"] = str(gpus)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": GPU_LABELS if gpus else {}},
        "spec": more.get("spec", {}),
        "status": {
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": more.get("ready", "True")}],
            "images": more.get("images", []),
        },
    }


def fill(server: ApiServer, config: ClusterConfig, keys: dict[str, str]) -> None:
    """Install operators, put the manifests there, do what controllers and people do then."""
    kube = server.kube
    kube.install()
    kube.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow-system"}})
    kube.add(trainer())
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    names = [{"names": [image]} for image in config.images.values()]
    kube.add(node("cpu-1", images=names))
    for number in (1, 2):
        kube.add(node(f"gpu-{number}", 8, spec={"taints": taints}, images=names))
    for manifest in generated(manifests(config), lambda *_: None):
        kube.add(manifest)
    ready = {"readyReplicas": 2, "updatedReplicas": 2, "observedGeneration": 1}
    kube.set_status("apps/v1", "Deployment", "vila", "vila-dashboard", ready)
    for namespace in {config.namespace, "vila"}:
        kube.add(secret("vila-store-credentials", namespace, keys))
    kube.add(secret("vila-wandb", config.namespace, {"WANDB_API_KEY": "key"}))
    claim = kube.get("v1", "PersistentVolumeClaim", config.namespace, "vila-cache")
    if claim:
        kube.add({**claim, "status": {"phase": "Bound"}})


def secret(name: str, namespace: str, values: dict[str, str]) -> Any:
    """Return a Secret as the API gives it."""
    import base64

    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}


def trainer(tag: str = "v2.3.0", running: int = 1) -> Any:
    """Return the Deployment of Trainer's controller."""
    image = f"ghcr.io/kubeflow/trainer/trainer-controller-manager:{tag}"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "kubeflow-trainer-controller-manager",
            "namespace": "kubeflow-system",
        },
        "spec": {"template": {"spec": {"containers": [{"name": "manager", "image": image}]}}},
        "status": {"availableReplicas": running},
    }


@contextmanager
def written(config: ClusterConfig, path: Path) -> Iterator[str]:
    """Yield the path of a file with the config, for commands."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    yield str(path)


def config_for(
    server: ApiServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str = "http://127.0.0.1:1",
    **changes: Any,
) -> ClusterConfig:
    """Return gpu-cluster's config for this server, which KUBECONFIG then reaches."""
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MINIO_ROOT_USER", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_cluster("gpu-cluster")
    store = config.store.model_copy(
        update={"uri": "s3://vila-tests/platform", "endpoint": endpoint}
    )
    return config.model_copy(update={"context": "test", "store": store, **changes})
