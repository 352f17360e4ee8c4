"""What Kubernetes' own messages mean for a task, and what to do. Text in, symptom out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

KINDS = {
    "image-pull": "An image can't be pulled",
    "secret-missing": "A Secret is missing",
    "config-map-missing": "A ConfigMap is missing",
    "container-start": "The container does not start",
    "out-of-memory": "Out of memory (OOMKilled, exit code 137)",
    "killed": "Killed (exit code 137 or 143)",
    "evicted": "Evicted from its node",
    "node-lost": "The node was lost",
    "preempted": "Preempted",
    "deadline": "The time limit was reached",
    "unschedulable-gpu": "No node has the GPUs",
    "unschedulable": "No node takes the pod",
    "volume": "A volume is missing or can't be mounted",
    "quota": "A quota is exceeded",
    "limit-range": "More than a LimitRange allows",
    "pod-security": "Refused by Pod Security",
    "service-account-missing": "A service account is missing",
    "priority-class-missing": "A priority class is missing",
    "queued": "Waiting in the queue (Kueue)",
    "trainjob": "The TrainJob fails or does not start",
    "refused": "The API refuses to make a pod",
    "bucket-missing": "The S3 bucket is missing",
    "store-read-only": "The S3 store is read-only, or access is denied",
    "store-full": "The S3 store is full",
    "store-credentials": "The S3 credentials are wrong",
    "store-unreachable": "The S3 store is out of reach",
    "clock-skew": "Clocks differ",
    "crd-missing": "A CRD is missing",
    "credentials": "Credentials have expired",
    "rights": "A right is missing",
    "context": "The cluster or context is unknown",
    "api-unreachable": "The Kubernetes API is out of reach",
    "failed": "The task itself failed",
}
"""Every kind of finding, with the title of its section in cluster-troubleshooting.md."""


@dataclass(frozen=True)
class Symptom:
    """What a message means. `kind` is one of KINDS."""

    kind: str
    message: str
    fix: str


def of_image(reason: str, message: str, image: str, secrets: Sequence[str]) -> Symptom:
    """Read why an image is not there; `secrets` are the pod's imagePullSecrets."""
    text = message.lower()
    if reason == "ErrImageNeverPull":
        fix = (
            "load it onto the nodes (kind load docker-image IMAGE), or set image_pull_policy: "
            "IfNotPresent"
        )
    elif reason == "InvalidImageName":
        fix = "correct the name under `images` in the cluster's config"
    elif re.search(r"unauthorized|denied|no basic auth|authentication required|forbidden", text):
        fix = (
            f"the registry refuses the credentials of {', '.join(secrets)}: make that Secret again"
            if secrets
            else "the registry wants credentials: kubectl create secret docker-registry NAME …, "
            "and image_pull_secrets: [NAME] in the cluster's config"
        )
    elif re.search(r"not found|manifest unknown|does not exist", text):
        fix = "push it (make images, then podman push), or correct `images` in the cluster's config"
    elif re.search(r"no such host|timeout|i/o|refused|x509|certificate|toomanyrequests", text):
        fix = "the nodes can't reach the registry: check its address, CA and the nodes' network"
    else:
        fix = "on a node: crictl pull IMAGE; and see `images` in the cluster's config"
    return Symptom("image-pull", f"{image}: {reason}: {_one_line(message)}", fix)


def of_start(reason: str, message: str, namespace: str) -> Symptom:
    """Read CreateContainerConfigError and its kin, or a FailedMount event."""
    missing = _missing_object(message, namespace)
    if missing is not None:
        return missing
    return Symptom(
        "container-start",
        f"{reason}: {_one_line(message)}",
        "kubectl describe the pod; the image must hold the command, and its user be 10001",
    )


def of_mount(message: str, namespace: str) -> Symptom:
    """Read a FailedMount or FailedAttachVolume event."""
    missing = _missing_object(message, namespace)
    if missing is not None:
        return missing
    if "Multi-Attach" in message:
        fix = "the volume can be on one node only: a claim that tasks share needs ReadWriteMany"
    else:
        fix = f"kubectl -n {namespace} describe pvc, and look at the storage driver's pods"
    return Symptom("volume", _one_line(message), fix)


def of_scheduling(
    message: str, asked: Mapping[str, str], most: Mapping[str, tuple[str, int]], task: str
) -> Symptom:
    """Read why the scheduler finds no node.

    `asked` is what the pod requests; `most` says by extended resource which node has most of it,
    and how much; empty where nodes can't be read.
    """
    where = f"tasks.{task}" if task else "defaults"
    said = _one_line(message.partition("preemption:")[0])
    gpu = next((name for name in asked if "/" in name and f"Insufficient {name}" in message), None)
    if gpu is not None:
        return _gpus(gpu, asked[gpu], most, where, said)
    if re.search(
        r"persistentvolumeclaim \"[^\"]+\" not found|unbound.*PersistentVolumeClaims", said
    ):
        return Symptom(
            "volume",
            said,
            "kubectl get pvc and kubectl get storageclass: a claim needs a storage class that "
            "makes its volume (vila cluster check)",
        )
    causes = []
    if "Insufficient" in message:
        names = sorted(set(re.findall(r"Insufficient (\S+?)[,.\s]", f"{message} ")))
        wants = ", ".join(f"{name} {asked[name]}" for name in names if name in asked)
        causes.append(f"wait for others to end, or ask for less than {wants} ({where})")
    if taint := re.search(r"untolerated taint {([^:}]+)(?::\s*([^}]*))?}", message):
        causes.append(f"add to {where}.tolerations: {{key: {taint[1]}}}, if the task may run there")
    if "node affinity/selector" in message:
        causes.append(f"no node has the labels of {where}.node_selector (or gpu.product)")
    if "were unschedulable" in message:
        causes.append("kubectl uncordon the nodes")
    return Symptom("unschedulable", said, "; ".join(causes) or "kubectl describe nodes")


def _gpus(
    gpu: str, asked: str, most: Mapping[str, tuple[str, int]], where: str, said: str
) -> Symptom:
    node, count = most.get(gpu, ("", 0))
    if not most:
        fix = f"wait for others to end, or set {where}.gpu.count to what a node has"
    elif not count:
        fix = (
            f"no node offers {gpu}: install its device plugin (NVIDIA: the GPU operator), then "
            "kubectl describe nodes | grep -A8 Allocatable"
        )
    elif count < int(asked):
        fix = f"the largest node ({node}) has {count}: set {where}.gpu.count to at most {count}"
    else:
        fix = "all are in use or their nodes don't fit: wait, or give a higher priority_class"
    return Symptom("unschedulable-gpu", f"asks for {asked} {gpu} on one node: {said}", fix)


def of_refusal(message: str, namespace: str, task: str) -> Symptom:
    """Read why a pod or job could not be made: FailedCreate events, Argo's and Trainer's words."""
    said, where = _one_line(message), f"tasks.{task}" if task else "defaults"
    if "exceeded quota" in message or ("must specify" in message and "quota" in message):
        return Symptom(
            "quota",
            said,
            f"wait for others to end, ask for less ({where}), or raise it: "
            f"kubectl -n {namespace} describe resourcequota",
        )
    if "violates PodSecurity" in message:
        return Symptom(
            "pod-security",
            said,
            "the namespace's pod-security level is stricter than the pod: "
            f"kubectl get namespace {namespace} -o yaml (KFP's own pods pass 'baseline')",
        )
    if re.search(
        r"(minimum|maximum) \S+ (usage|limit)?.* per (Container|Pod|PersistentVolume)", message
    ):
        return Symptom(
            "limit-range",
            said,
            f"ask for less ({where}), or change it: kubectl -n {namespace} describe limitrange",
        )
    if found := re.search(r"service ?account \"?([\w./:-]+)\"? not found", message, re.I):
        name = found[1].rpartition("/")[2]
        return Symptom(
            "service-account-missing",
            said,
            f"vila cluster apply, or kubectl -n {namespace} create serviceaccount {name}",
        )
    if found := re.search(r"no PriorityClass with name (\S+)", message):
        return Symptom(
            "priority-class-missing",
            said,
            f"vila cluster apply, or kubectl create priorityclass {found[1]} --value 1000",
        )
    return _missing_object(message, namespace) or Symptom(
        "refused", said, f"kubectl -n {namespace} get events --sort-by .lastTimestamp"
    )


def of_log(lines: Iterable[str], namespace: str) -> Symptom | None:
    """Read the end of a failed step's log for what a run record can't hold: a broken store."""
    for line in reversed(list(lines)):
        for sign, kind, fix in _LOG_SIGNS:
            if re.search(sign, line):
                return Symptom(kind, _one_line(line), fix.replace("NAMESPACE", namespace))
    return None


_LOG_SIGNS = (
    (
        "RequestTimeTooSkewed|difference between the request time|this machine.s clock is",
        "clock-skew",
        "set the node's clock (chrony or systemd-timesyncd on every node, and on the S3 server)",
    ),
    (
        "NoSuchBucket|no such bucket",
        "bucket-missing",
        "vila cluster bootstrap makes it; or correct store.uri in the cluster's config",
    ),
    (
        "SignatureDoesNotMatch|InvalidAccessKeyId|secret key is wrong|access key is unknown"
        "|ExpiredToken|InvalidToken|session token (has expired|is not)",
        "store-credentials",
        "make the Secret vila-store-credentials in NAMESPACE again, with keys that "
        "vila cluster check accepts",
    ),
    (
        "XMinioStorageFull|no space left in the store|bucket's quota is used up",
        "store-full",
        "free some: vila runs names what is old, versions end by the bucket's lifecycle "
        "(vila cluster bootstrap); or raise the quota",
    ),
    (
        "s3://.*(AccessDenied|access denied|MethodNotAllowed)",
        "store-read-only",
        "the keys may not do that in the bucket: vila cluster bootstrap sets the policy, "
        "vila cluster check tries it",
    ),
    (
        "s3://.*(does not answer|can't be reached)|the server does not answer",
        "store-unreachable",
        "see store.endpoint in the cluster's config, the NetworkPolicies in NAMESPACE, and that "
        "the server runs",
    ),
    (
        "ClusterTrainingRuntime.*not found|[Ii]nvalid.*runtimeRef",
        "trainjob",
        "vila cluster apply makes the runtime that nodes.runtime names",
    ),
    (r"the CRD \S+ of", "crd-missing", "the message names the command; vila cluster check too"),
    (
        "kubectl auth can-i",
        "rights",
        "vila cluster apply sets the rights of the service accounts in NAMESPACE",
    ),
)


def _missing_object(message: str, namespace: str) -> Symptom | None:
    said = _one_line(message)
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", message):
        key, kind, name = found[1], found[2], found[3].rpartition("/")[2]
        flag = "secret generic" if kind == "Secret" else "configmap"
        return Symptom(
            "secret-missing" if kind == "Secret" else "config-map-missing",
            said,
            f"it lacks the key {key}: kubectl -n {namespace} delete {flag.split()[0]} {name}, then "
            f"kubectl -n {namespace} create {flag} {name} --from-literal={key}=…",
        )
    if found := re.search(r"secret \"?([\w.-]+)\"? not found", message, re.I):
        return Symptom("secret-missing", said, new_secret(namespace, found[1]))
    if found := re.search(r"configmap \"?([\w.-]+)\"? not found", message, re.I):
        return Symptom(
            "config-map-missing", said, f"vila cluster apply makes {found[1]} in {namespace}"
        )
    return None


def new_secret(namespace: str, name: str, keys: Sequence[str] = ()) -> str:
    """Return the command that makes a Secret; without `keys` with those that ours have."""
    known = {
        "vila-store-credentials": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        "vila-wandb": ("WANDB_API_KEY",),
        "vila-dashboard-tokens": ("tokens",),
        "vila-minio-root": ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    }
    keys = keys or known.get(name, ("KEY",))
    if ".dockerconfigjson" in keys:
        return (
            f"kubectl -n {namespace} create secret docker-registry {name} --docker-server=… "
            "--docker-username=… --docker-password=…"
        )
    files = {"ca.crt", "tokens"}
    values = " ".join(
        f"--from-file={key}=FILE" if key in files else f"--from-literal={key}=…" for key in keys
    )
    return f"kubectl -n {namespace} create secret generic {name} {values}"


def _one_line(text: str) -> str:
    short = " ".join(text.split())
    return short if len(short) <= 400 else f"{short[:399]}…"
