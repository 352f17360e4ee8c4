"""A compiled pipeline with what a cluster gives each of its tasks, as KFP takes it.

KFP's form are two documents: the pipeline, in which images, variables, resources and retries
stand, and `platforms.kubernetes`, which holds what only Kubernetes knows. The result depends on
pipeline and cluster alone, not on the run: equal runs are runs of one version in KFP.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml

from components.runtime.context import TrainJobPlace
from vila_core.errors import UserError
from vila_ops.cluster import labels
from vila_ops.cluster.config import ClusterConfig, Gpu, TaskPlace

CACHE = "/var/cache/vila"
"""VILA_CACHE of every task; `work` below it is where a task works."""
CA_FOLDER = "/etc/vila/ca"
USER = 10001
"""User and group id of the images."""
PREEMPTED_RETRIES = 3
"""What a task that may be preempted gets at least."""
LONGEST_WAIT_S = 3600
_GPU_PRODUCT = "nvidia.com/gpu.product"
_KEEP = "cluster-autoscaler.kubernetes.io/safe-to-evict"
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)}


def cluster_documents(
    spec: Mapping[str, Any], config: ClusterConfig, relays: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pipeline spec and the platform spec of a compiled pipeline on a cluster.

    `relays` are the tasks whose work is done by the nodes of a TrainJob: their own pods only start
    it and watch, and get little. Raises UserError for a pipeline with tasks that are none of ours.
    """
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    made = copy.deepcopy(dict(spec))
    executors: dict[str, Any] = {}
    for key, node, component in _tasks(made):
        label = _own_executor(made, key, node, component)
        container = made["deploymentSpec"]["executors"][label]["container"]
        name = node.get("taskInfo", {}).get("name", key)
        place = _place(config, name, stage_of(container), relay=name in relays)
        container["image"] = _image(config, container["image"])
        container["env"] = [*container.get("env", []), *_plain(config, place)]
        container["resources"] = _resources(place)
        retries = attempts(place) - 1
        if retries:
            node["retryPolicy"] = {
                "maxRetryCount": retries,
                "backoffDuration": f"{place.retry_wait_s}s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": f"{max(LONGEST_WAIT_S, place.retry_wait_s)}s",
            }
        executors[label] = _kubernetes(config, place, name)
    platforms = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}
    generated: Any = pipeline_spec_pb2  # its classes are made at run time
    json_format.ParseDict(made, generated.PipelineSpec())  # names and types are KFP's own
    json_format.ParseDict(platforms, generated.PlatformSpec())
    return made, platforms


def cluster_yaml(
    spec: Mapping[str, Any], config: ClusterConfig, relays: Collection[str] = ()
) -> str:
    """Return both documents as one YAML text; the same pipeline and cluster give the same bytes."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    documents = cluster_documents(spec, config, relays)
    return yaml.dump_all(documents, Dumper=dumper, sort_keys=True, allow_unicode=True, width=1000)


def trainjob_place(config: ClusterConfig, task: str, stage: str) -> TrainJobPlace:
    """Return where the nodes of a task come from that trains on several."""
    place = config.place(task, stage)
    volumes, mounts = _volumes(config, place)
    selector = dict(place.node_selector)
    if place.gpu and place.gpu.product:
        selector[_GPU_PRODUCT] = place.gpu.product
    pod: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": selector,
        "tolerations": [
            each.model_dump(mode="json", exclude_none=True) for each in place.tolerations
        ],
        "volumes": volumes,
        "imagePullSecrets": [{"name": name} for name in config.image_pull_secrets],
        "priorityClassName": place.priority_class,
    }
    amounts = {"cpu": place.cpu, "memory": place.memory}
    if place.gpu:
        amounts[place.gpu.resource] = str(place.gpu.count)
    return TrainJobPlace(
        namespace=config.namespace,
        runtime=config.nodes.runtime,
        image=config.images["train"],
        service_account=config.service_account,
        restarts=config.nodes.restarts,
        wait_s=config.nodes.wait_s,
        queue=config.queue,
        resources={"requests": amounts, "limits": amounts},
        env=tuple(_env(config, place)),
        pod={key: value for key, value in pod.items() if value},
        volume_mounts=tuple(mounts),
    )


def attempts(place: TaskPlace) -> int:
    """Return how often a task is tried at most."""
    return 1 + (max(place.retries, PREEMPTED_RETRIES) if place.spot else place.retries)


def stage_of(container: Mapping[str, Any]) -> str:
    """Return the stage that an executor's container runs. Raises UserError for a foreign one."""
    args = container.get("args", [])
    if "--function_to_execute" not in args[:-1]:
        raise UserError(
            f"the pipeline has a task of the image {container.get('image')} that is no lightweight "
            "Python component; fix: compile it from components made with components._decorator."
        )
    return args[args.index("--function_to_execute") + 1]


def _tasks(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield key, node and component of every task that runs in a pod, loops' bodies included."""
    graphs = [spec["root"], *spec["components"].values()]
    for graph in [graph["dag"] for graph in graphs if "dag" in graph]:
        for key, node in graph["tasks"].items():
            component = node["componentRef"]["name"]
            if "executorLabel" in spec["components"][component]:
                yield key, node, component


def _own_executor(spec: dict[str, Any], key: str, node: dict[str, Any], component: str) -> str:
    """Return the task's executor, which no other task shares: they may get different places.

    KFP finds the Kubernetes part by executor and hands it on by component, so both are split.
    """
    interface = spec["components"][component]
    label = interface["executorLabel"]
    users = [name for _, other, name in _tasks(spec) if other is not node]
    shared = any(spec["components"][name]["executorLabel"] == label for name in users)
    if not shared:
        return label
    executors = spec["deploymentSpec"]["executors"]
    new, executor = _free(f"comp-{key}", spec["components"]), _free(f"exec-{key}", executors)
    spec["components"][new] = {**copy.deepcopy(interface), "executorLabel": executor}
    executors[executor] = copy.deepcopy(executors[label])
    node["componentRef"] = {"name": new}
    return executor


def _free(name: str, taken: Collection[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def _place(config: ClusterConfig, task: str, stage: str, *, relay: bool) -> TaskPlace:
    place = config.place(task, stage)
    if not relay:
        return place
    return TaskPlace(
        cpu=config.nodes.relay_cpu,
        memory=config.nodes.relay_memory,
        retries=attempts(place) - 1,
        retry_wait_s=place.retry_wait_s,
        timeout_s=place.timeout_s,
        priority_class=place.priority_class,
        env=place.env,
    )


def _image(config: ClusterConfig, image: str) -> str:
    role = image.rpartition("/")[2].partition(":")[0]
    if not image.startswith("vila-platform/") or role not in config.images:
        raise UserError(
            f"the pipeline has a task with the image {image}, which is of no role; "
            f"fix: one of {', '.join(f'vila-platform/{role}:latest' for role in config.images)}."
        )
    return config.images[role]


def _resources(place: TaskPlace) -> dict[str, Any]:
    """Return requests and limits, which are equal: what a pod was promised is what it may use."""
    cpu, memory = _number(place.cpu), _number(place.memory) / 1e9
    found: dict[str, Any] = {  # by text for KFP's present driver, by number for earlier ones
        "cpuLimit": cpu,
        "cpuRequest": cpu,
        "memoryLimit": memory,
        "memoryRequest": memory,
        "resourceCpuLimit": place.cpu,
        "resourceCpuRequest": place.cpu,
        "resourceMemoryLimit": place.memory,
        "resourceMemoryRequest": place.memory,
    }
    if place.gpu is not None:
        found["accelerator"] = _accelerator(place.gpu)
    return found


def _accelerator(gpu: Gpu) -> dict[str, str]:
    count = str(gpu.count)
    return {
        "count": count,
        "type": gpu.resource,
        "resourceCount": count,
        "resourceType": gpu.resource,
    }


def _number(quantity: str) -> float:
    digits = quantity.rstrip("mkKMGTPi")
    return float(digits) * _UNITS[quantity[len(digits) :]]


def _plain(config: ClusterConfig, place: TaskPlace) -> list[dict[str, str]]:
    """Return the variables whose values are no secret and stand in the config."""
    values = {"VILA_CACHE": CACHE, **place.env}
    if config.store.config_map is None:
        values |= {"VILA_S3_ENDPOINT": config.store.endpoint, "AWS_REGION": config.store.region}
    if config.store.ca_secret is not None:
        values["AWS_CA_BUNDLE"] = f"{CA_FOLDER}/ca.crt"
    return [{"name": name, "value": value} for name, value in values.items()]


def _secrets(config: ClusterConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the Secrets that become variables, with the keys, which are named like them."""
    if config.store.secret is not None:
        yield config.store.secret, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if config.tracking.wandb_secret is not None:
        yield config.tracking.wandb_secret, ("WANDB_API_KEY",)


def _config_maps(config: ClusterConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    if config.store.config_map is not None:
        yield config.store.config_map, ("VILA_S3_ENDPOINT", "AWS_REGION")


FIELDS = {
    "VILA_KFP_RUN": f"metadata.labels['{labels.KFP_RUN}']",
    "VILA_POD_NAME": "metadata.name",
    "VILA_POD_UID": "metadata.uid",
    "VILA_NODE": "spec.nodeName",
}
"""Variables that tell a step about its own pod, and KFP's id of its run."""


def _kubernetes(config: ClusterConfig, place: TaskPlace, task: str) -> dict[str, Any]:
    """Return one task's KubernetesExecutorConfig."""
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2

    generated: Any = kubernetes_executor_config_pb2
    wanted: dict[str, Any] = {
        "imagePullPolicy": config.image_pull_policy,
        "imagePullSecret": [_named(name) for name in config.image_pull_secrets],
        "podMetadata": _metadata(config, place, task),
        "securityContext": {"runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": True},
        "tolerations": [
            each.model_dump(mode="json", exclude_none=True) for each in place.tolerations
        ],
        "pvcMount": [
            {"constant": claim, "pvcNameParameter": _constant(claim), "mountPath": path}
            for claim, path in _claims(config)
        ],
        "secretAsEnv": [
            {
                **_named(name),
                "keyToEnv": [{"secretKey": key, "envVar": key} for key in keys],
                "optional": False,
            }
            for name, keys in _secrets(config)
        ],
        "configMapAsEnv": [
            {
                "configMapName": name,
                "configMapNameParameter": _constant(name),
                "keyToEnv": [{"configMapKey": key, "envVar": key} for key in keys],
                "optional": False,
            }
            for name, keys in _config_maps(config)
        ],
        "fieldPathAsEnv": [{"name": name, "fieldPath": path} for name, path in FIELDS.items()],
        "emptyDirMounts": _empty_dirs(config, place),
    }
    selector = dict(place.node_selector)
    if place.gpu is not None and place.gpu.product is not None:
        selector[_GPU_PRODUCT] = place.gpu.product
    if selector:
        wanted["nodeSelector"] = {"labels": selector}
    if place.timeout_s is not None:
        wanted["activeDeadlineSeconds"] = str(place.timeout_s)
    if config.store.ca_secret is not None:
        wanted["secretAsVolume"] = [
            {**_named(config.store.ca_secret), "mountPath": CA_FOLDER, "optional": False}
        ]
    if place.scratch is not None and place.scratch_class is not None:
        wanted["genericEphemeralVolume"] = [
            {
                "volumeName": "vila-work",
                "mountPath": f"{CACHE}/work",
                "accessModes": ["ReadWriteOnce"],
                "size": place.scratch,
                "storageClassName": place.scratch_class,
            }
        ]
    found: Any = json_format.ParseDict(wanted, generated.KubernetesExecutorConfig())
    return json_format.MessageToDict(found)


def _metadata(config: ClusterConfig, place: TaskPlace, task: str) -> dict[str, dict[str, str]]:
    found = {labels.TASK: task}
    if config.queue is not None:
        found[labels.QUEUE] = config.queue
        if place.priority_class is not None:
            # KFP knows no priorityClassName; Kueue takes the priority of a pod from this label.
            found[labels.PRIORITY] = place.priority_class
    return {"labels": found, "annotations": {_KEEP: "true" if place.spot else "false"}}


def _claims(config: ClusterConfig) -> Iterator[tuple[str, str]]:
    if config.cache_claim is not None:
        yield config.cache_claim, CACHE
    for volume in config.volumes:
        yield volume.claim, volume.path


def _empty_dirs(config: ClusterConfig, place: TaskPlace) -> list[dict[str, str]]:
    """Return /dev/shm, and cache and work folder where no claim holds them."""
    found = []
    if place.shm is not None:
        found.append(_empty_dir("vila-shm", "/dev/shm", place.shm, "Memory"))
    if config.cache_claim is None:
        found.append(_empty_dir("vila-node-cache", CACHE, None))
    if place.scratch is not None and place.scratch_class is None:
        found.append(_empty_dir("vila-work", f"{CACHE}/work", place.scratch))
    return found


def _empty_dir(name: str, path: str, size: str | None, medium: str = "") -> dict[str, str]:
    wanted = {"volumeName": name, "mountPath": path, "sizeLimit": size, "medium": medium}
    return {key: value for key, value in wanted.items() if value}


def _named(secret: str) -> dict[str, Any]:
    return {"secretName": secret, "secretNameParameter": _constant(secret)}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}


# ---- the same for the pods of a TrainJob, in Kubernetes' own words ---------------------------


def _env(config: ClusterConfig, place: TaskPlace) -> Iterator[dict[str, Any]]:
    yield from _plain(config, place)
    for kind, sources in (
        ("secretKeyRef", _secrets(config)),
        ("configMapKeyRef", _config_maps(config)),
    ):
        for name, keys in sources:
            for key in keys:
                yield {"name": key, "valueFrom": {kind: {"name": name, "key": key}}}


def _volumes(
    config: ClusterConfig, place: TaskPlace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []

    def add(name: str, path: str, source: dict[str, Any], read_only: bool = False) -> None:
        volumes.append({"name": name, **source})
        mounts.append(
            {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}
        )

    for each in _empty_dirs(config, place):
        made = {key: each[key] for key in ("medium", "sizeLimit") if key in each}
        add(each["volumeName"], each["mountPath"], {"emptyDir": made})
    if place.scratch is not None and place.scratch_class is not None:
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": place.scratch_class,
            "resources": {"requests": {"storage": place.scratch}},
        }
        source = {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
        add("vila-work", f"{CACHE}/work", source)
    read_only = {volume.path for volume in config.volumes if volume.read_only}
    for claim_name, path in _claims(config):
        source = {"persistentVolumeClaim": {"claimName": claim_name}}
        add(claim_name, path, source, path in read_only)
    if config.store.ca_secret is not None:
        source = {"secret": {"secretName": config.store.ca_secret}}
        add(config.store.ca_secret, CA_FOLDER, source, True)
    return volumes, mounts
