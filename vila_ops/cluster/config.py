"""`configs/clusters/NAME.yaml`: a Kubernetes cluster as the platform sees it. Data, no secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vila_core.config import Frozen, read_yaml, validate
from vila_ops.named import config_files, find_file

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
ROLES = ("data", "train", "eval", "ops")


def _quantity(value: str) -> str:
    if not _QUANTITY.fullmatch(value):
        raise ValueError("a Kubernetes quantity is needed, such as 500m, 4 or 16Gi")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("a Kubernetes name is needed: lower-case letters, digits, '-' and '.'")
    return value


Quantity = Annotated[str, AfterValidator(_quantity)]
Name = Annotated[str, AfterValidator(_name)]


class Toleration(Frozen):
    """Lets a pod onto nodes with a taint."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Gpu(Frozen):
    """GPUs of one node: the extended resource, and how many of it."""

    count: int = Field(gt=0, description="per node")
    resource: str = Field(default="nvidia.com/gpu", description="name of the extended resource")
    product: str | None = Field(
        default=None, description="value of the node label nvidia.com/gpu.product; unset: any"
    )


class TaskPlace(Frozen):
    """What a task gets on the cluster, and where. Given per task, they override `defaults`."""

    cpu: Quantity = "2"
    memory: Quantity = "8Gi"
    gpu: Gpu | None = None
    shm: Quantity | None = Field(default=None, description="size of a memory /dev/shm; unset: 64Mi")
    scratch: Quantity | None = Field(
        default=None, description="most that the work folder may take; unset: no limit of its own"
    )
    scratch_class: Name | None = Field(
        default=None,
        description="storage class of a volume of that size for it, which user 10001 must be able "
        "to write; unset: the node's disk",
    )
    node_selector: Mapping[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priority_class: Name | None = Field(
        default=None, description="PriorityClass; a task of KFP gets it from Kueue, so by `queue`"
    )
    spot: bool = Field(
        default=False, description="may be preempted: retried, going on from the last checkpoint"
    )
    retries: int = Field(default=0, ge=0, description="further attempts of a failed task")
    retry_wait_s: int = Field(
        default=60, ge=0, description="before the first of them; doubled then"
    )
    timeout_s: int | None = Field(default=None, gt=0, description="a longer task is ended")
    env: Mapping[str, str] = Field(default_factory=dict, description="plain values, no secrets")


class Volume(Frozen):
    """A PersistentVolumeClaim that every task mounts."""

    claim: Name
    path: str
    read_only: bool = Field(
        default=False, description="of nodes of a TrainJob; KFP mounts a claim as the claim allows"
    )


class StorePlace(Frozen):
    """The store that tasks use, and how they reach it. Credentials stay in a Secret."""

    uri: str = Field(pattern=r"^s3://.+", description="s3://bucket/prefix")
    endpoint: str = Field(pattern=r"^https?://", description="as seen from inside the cluster")
    external_endpoint: str | None = Field(
        default=None, pattern=r"^https?://", description="as seen from where runs are submitted"
    )
    region: str = "us-east-1"
    secret: Name | None = Field(
        default="vila-store-credentials",
        description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; null: the service "
        "account's own identity (STS)",
    )
    config_map: Name | None = Field(
        default="vila-store",
        description="ConfigMap with VILA_S3_ENDPOINT and AWS_REGION; null: `endpoint`, `region`",
    )
    ca_secret: Name | None = Field(default=None, description="Secret with ca.crt of the endpoint")


class KfpPlace(Frozen):
    """Kubeflow Pipelines' API."""

    url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="address of the API; unset: through the Kubernetes API's service proxy",
    )
    namespace: Name = Field(default="kubeflow", description="where KFP itself is installed")
    service: Name = "ml-pipeline"
    port: int = 8888
    ui: str | None = Field(default=None, pattern=r"^https?://", description="for links")
    experiment: str = "vila"
    token_env: str | None = Field(
        default=None, description="environment variable with a bearer token for `url`"
    )


class Nodes(Frozen):
    """How tasks with `train.nodes` above 1 get them: a Kubeflow Trainer v2 TrainJob."""

    runtime: Name = Field(default="vila-torch", description="ClusterTrainingRuntime")
    service_account: Name = Field(
        default="vila-train", description="of a run with such tasks; may make TrainJobs"
    )
    restarts: int = Field(default=3, ge=0, description="after a node was lost")
    wait_s: int = Field(default=3600, gt=0, description="for nodes, outside of a queue")
    relay_cpu: Quantity = Field(default="1", description="of the task that watches the nodes")
    relay_memory: Quantity = "4Gi"


class Tracking(Frozen):
    """The Secret with WANDB_API_KEY, where W&B is online."""

    wandb_secret: Name | None = None


class ClusterConfig(Frozen):
    """One cluster: where it is, what it has, and what each task gets of it."""

    description: str = ""
    context: str | None = Field(
        default=None, description="kubeconfig context; unset: the current one, or in-cluster"
    )
    namespace: Name = Field(
        default="kubeflow",
        description="where KFP runs the tasks: its own namespace, or with many users the profile's",
    )
    kfp: KfpPlace = KfpPlace()
    store: StorePlace
    images: Mapping[str, str] = Field(
        description="image by role (data, train, eval, ops), by digest or tag"
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[Name, ...] = ()
    service_account: Name = "vila-step"
    queue: Name | None = Field(default=None, description="Kueue LocalQueue; unset: no queueing")
    volumes: tuple[Volume, ...] = ()
    cache_claim: Name | None = Field(default=None, description="PVC for VILA_CACHE")
    nodes: Nodes = Nodes()
    tracking: Tracking = Tracking()
    defaults: TaskPlace = TaskPlace()
    tasks: Mapping[str, Mapping[str, object]] = Field(
        default_factory=dict, description="by task or stage name: what differs from `defaults`"
    )
    overlay: str = Field(default="gpu-cluster", description="folder in k8s/overlays that made it")

    @model_validator(mode="after")
    def _complete(self) -> ClusterConfig:
        missing = sorted(set(ROLES) - self.images.keys())
        unknown = sorted(self.images.keys() - set(ROLES))
        if missing or unknown:
            raise ValueError(
                f"images needs exactly the roles {', '.join(ROLES)}"
                + (f"; missing: {', '.join(missing)}" if missing else "")
                + (f"; unknown: {', '.join(unknown)}" if unknown else "")
            )
        for name in self.tasks:
            place = self.place(name, name)
            if place.priority_class and self.queue is None:
                raise ValueError(
                    f"tasks.{name}.priority_class needs `queue`: KFP can't set a pod's priority, "
                    "Kueue does"
                )
            if place.scratch_class and not place.scratch:
                raise ValueError(f"tasks.{name}.scratch_class needs `scratch`: how large?")
        return self

    def place(self, task: str, stage: str) -> TaskPlace:
        """Return what a task gets: the defaults, the stage's values, the task's own, in turn.

        Raises ValueError (pydantic's ValidationError) for a wrong key or value.
        """
        values = self.defaults.model_dump()
        for name in dict.fromkeys((stage, task)):
            values |= self.tasks.get(name, {})
        return TaskPlace.model_validate(values)


def load_cluster(name: str) -> ClusterConfig:
    """Load a cluster by name (`configs/clusters/NAME.yaml`) or path of a YAML file.

    Raises UserError for an unknown name, key or value.
    """
    path = find_file(name, cluster_files(), "cluster")
    return validate(ClusterConfig, read_yaml(path), where=str(path))


def cluster_files() -> dict[str, Path]:
    """Return the cluster configs that come with the package, by name."""
    return config_files("clusters")
