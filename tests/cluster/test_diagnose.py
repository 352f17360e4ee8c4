"""What is wrong with a run on a cluster, by objects as kubelets, Argo and others leave them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api_server import ApiServer
from tests.cluster.scripted import Answer, running
from vila_core.errors import StoreError
from vila_core.store import open_store
from vila_ops.cluster.config import ClusterConfig, load_cluster
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.cluster.diagnose import Finding, diagnose, examine
from vila_ops.cluster.symptoms import KINDS, of_log

RUN, KFP = "brave-river-1", "2f0c1d3e-0000-4000-8000-000000000001"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "cluster-troubleshooting.md"
_clock = itertools.count(1)


class Cluster:
    """The test API server, as the parts of a cluster write into it."""

    def __init__(self, server: ApiServer, config: ClusterConfig) -> None:
        self.server, self.kube, self.config = server, server.kube, config

    def pod(self, task: str, status: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Add a pod of a task, newer than all before."""
        number = next(_clock)
        labels = {"vila.dev/task": task, "pipeline/runid": KFP, **more.pop("labels", {})}
        container = {
            "name": "main",
            "image": "registry.example.com/train:1",
            "resources": {"limits": more.pop("limits", {"memory": "16Gi"})},
        }
        return self.kube.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{task.replace('_', '-')}-{number}",
                    "namespace": self.config.namespace,
                    "labels": labels,
                    "creationTimestamp": f"2026-11-29T10:{number // 60:02}:{number % 60:02}Z",
                },
                "spec": {"containers": [container], **more},
                "status": status,
            }
        )

    def waiting(self, task: str, reason: str, message: str = "", **more: Any) -> dict[str, Any]:
        state = {"waiting": {"reason": reason, "message": message}}
        return self.pod(task, _containers("Pending", state), **more)

    def ended(self, task: str, code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
        state = {"terminated": {"exitCode": code, "reason": reason}}
        return self.pod(task, _containers("Failed" if code else "Succeeded", state), **more)

    def unschedulable(self, task: str, message: str, **more: Any) -> dict[str, Any]:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        status = {"phase": "Pending", "conditions": [{**condition, "message": message}]}
        return self.pod(task, status, **more)

    def node(self, name: str, gpus: int = 0, ready: str = "True") -> None:
        allocatable = {"cpu": "32", "memory": "128Gi"}
        if gpus:
            allocatable["nvidia.com/gpu"] = str(gpus)
        conditions = [{"type": "Ready", "status": ready}]
        status = {"allocatable": allocatable, "conditions": conditions}
        meta = {"name": name}
        self.kube.add({"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": status})

    def trainjob(self, task: str, **status: Any) -> dict[str, Any]:
        self.kube.install("trainer.kubeflow.org")
        return self.kube.add(
            {
                "apiVersion": "trainer.kubeflow.org/v1alpha1",
                "kind": "TrainJob",
                "metadata": {
                    "name": f"vila-{task}-1",
                    "namespace": self.config.namespace,
                    "labels": {"vila.dev/run": RUN, "vila.dev/task": task},
                    "creationTimestamp": "2026-11-29T10:00:00Z",
                },
                "spec": {"runtimeRef": {"name": "vila-torch"}},
                "status": status,
            }
        )

    def workload(self, owner: dict[str, Any], *conditions: dict[str, Any]) -> None:
        place = next(place for place in self.kube.kinds if place[0] == "kueue.x-k8s.io")
        reference = {key: owner[key] for key in ("apiVersion", "kind")}
        reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
        self.kube.add(
            {
                "apiVersion": "/".join(place),
                "kind": "Workload",
                "metadata": {
                    "name": f"wl-{owner['metadata']['name']}",
                    "namespace": self.config.namespace,
                    "ownerReferences": [reference],
                },
                "spec": {"queueName": "vila"},
                "status": {"conditions": list(conditions)},
            }
        )

    def found(self) -> list[Finding]:
        return diagnose(kubernetes_api(self.config), self.config, RUN, KFP)

    def one(self) -> Finding:
        [finding] = self.found()
        assert finding.kind in KINDS
        return finding


def _containers(phase: str, state: dict[str, Any], last: dict[str, Any] | None = None) -> Any:
    status = {"name": "main", "state": state, "lastState": last or {}, "restartCount": 0}
    return {"phase": phase, "containerStatuses": [status]}


@pytest.fixture
def cluster(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig(tmp_path / "config")))
    return Cluster(api_server, load_cluster("gpu-cluster").model_copy(update={"context": "test"}))


def test_a_run_that_is_well_has_no_findings(cluster: Cluster) -> None:
    cluster.node("n1")
    cluster.ended("prepare", 0)
    cluster.pod("align", _containers("Running", {"running": {}}), nodeName="n1")
    cluster.pod("sft", {"phase": "Pending"})
    assert cluster.found() == []


@pytest.mark.parametrize(
    ("reason", "message", "fix"),
    [
        ("ImagePullBackOff", 'Back-off pulling image "x"', "crictl pull"),
        ("ErrImagePull", "manifest unknown: not found", "push it"),
        ("ErrImagePull", "pull access denied, authorization failed", "image_pull_secrets"),
        ("ErrImagePull", "dial tcp: lookup registry.example.com: no such host", "can't reach"),
        ("ErrImageNeverPull", "Container image is not present", "kind load docker-image"),
        ("InvalidImageName", "couldn't parse image reference", "correct the name"),
    ],
)
def test_an_image_that_cant_be_pulled(
    cluster: Cluster, reason: str, message: str, fix: str
) -> None:
    cluster.waiting("prepare", reason, message)
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("prepare", "image-pull")
    assert "registry.example.com/train:1" in finding.message
    assert fix in finding.fix


def test_the_pull_error_is_taken_from_the_event(cluster: Cluster) -> None:
    pod = cluster.waiting("prepare", "ImagePullBackOff", "Back-off pulling image")
    cluster.kube.event(pod, "Failed", 'Failed to pull image "x": unauthorized: no basic auth')
    finding = cluster.one()
    assert "no basic auth" in finding.message
    assert "registry wants credentials" in finding.fix
    cluster.kube.objects.clear()
    cluster.kube.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}})
    pod = cluster.waiting("prepare", "ErrImagePull", "denied", imagePullSecrets=[{"name": "reg"}])
    assert "credentials of reg" in cluster.one().fix


@pytest.mark.parametrize(
    ("message", "kind", "fix"),
    [
        (
            'secret "vila-store-credentials" not found',
            "secret-missing",
            "create secret generic vila-store-credentials --from-literal=AWS_ACCESS_KEY_ID=…",
        ),
        (
            "couldn't find key AWS_SECRET_ACCESS_KEY in Secret kubeflow/vila-store-credentials",
            "secret-missing",
            "it lacks the key AWS_SECRET_ACCESS_KEY",
        ),
        ('configmap "vila-store" not found', "config-map-missing", "vila cluster apply"),
        (
            "container has runAsNonRoot and image will run as root",
            "container-start",
            "its user be 10001",
        ),
    ],
)
def test_what_a_container_needs_and_does_not_find(
    cluster: Cluster, message: str, kind: str, fix: str
) -> None:
    cluster.waiting("align", "CreateContainerConfigError", message)
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("align", kind)
    assert fix in finding.fix


def test_a_secret_that_is_mounted_and_missing(cluster: Cluster) -> None:
    pod = cluster.waiting("align", "ContainerCreating")
    cluster.kube.event(
        pod, "FailedMount", 'MountVolume.SetUp failed for volume "ca" : secret "store-ca" not found'
    )
    assert cluster.one().kind == "secret-missing"


def test_a_volume_that_is_elsewhere(cluster: Cluster) -> None:
    pod = cluster.waiting("align", "ContainerCreating")
    cluster.kube.event(
        pod, "FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" already used by pod(s)'
    )
    finding = cluster.one()
    assert finding.kind == "volume"
    assert "ReadWriteMany" in finding.fix


GPUS = {"nvidia.com/gpu": "8", "memory": "512Gi"}
NO_GPU = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes: …"


@pytest.mark.parametrize(
    ("gpus", "fix"),
    [
        ((0, 0), "no node offers nvidia.com/gpu: install its device plugin"),
        ((2, 4), "the largest node (n2) has 4: set tasks.pretrain.gpu.count to at most 4"),
        ((8, 8), "all are in use"),
    ],
)
def test_gpus_that_no_node_has(cluster: Cluster, gpus: tuple[int, int], fix: str) -> None:
    for number, count in enumerate(gpus, start=1):
        cluster.node(f"n{number}", count)
    cluster.unschedulable("pretrain", NO_GPU, limits=GPUS)
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("pretrain", "unschedulable-gpu")
    assert finding.message.startswith("asks for 8 nvidia.com/gpu on one node: 0/2 nodes")
    assert "preemption" not in finding.message
    assert fix in finding.fix


def test_gpus_are_told_without_the_right_to_read_nodes(cluster: Cluster) -> None:
    cluster.server.deny("list", "nodes")
    cluster.unschedulable("pretrain", NO_GPU, limits=GPUS)
    assert "set tasks.pretrain.gpu.count" in cluster.one().fix


@pytest.mark.parametrize(
    ("message", "kind", "fix"),
    [
        (
            "0/3 nodes are available: 3 Insufficient memory.",
            "unschedulable",
            "less than memory 512Gi",
        ),
        (
            "0/3 nodes are available: 3 node(s) had untolerated taint {dedicated: ml}.",
            "unschedulable",
            "tasks.sft.tolerations: {key: dedicated}",
        ),
        (
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
            "unschedulable",
            "tasks.sft.node_selector",
        ),
        (
            '0/3 nodes are available: persistentvolumeclaim "vila-cache" not found.',
            "volume",
            "kubectl get pvc",
        ),
        (
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            "volume",
            "storage class",
        ),
    ],
)
def test_a_pod_that_no_node_takes(cluster: Cluster, message: str, kind: str, fix: str) -> None:
    cluster.unschedulable("sft", message, limits=GPUS)
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("sft", kind)
    assert fix in finding.fix


def test_out_of_memory_names_the_limit(cluster: Cluster) -> None:
    cluster.ended("sft", 137, "OOMKilled")
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("sft", "out-of-memory")
    assert "memory limit 16Gi" in finding.message
    assert "raise tasks.sft.memory" in finding.fix


def test_out_of_memory_in_a_container_that_is_started_again(cluster: Cluster) -> None:
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    cluster.pod("sft", _containers("Running", state, last))
    assert cluster.one().kind == "out-of-memory"


def test_killed_without_a_reason(cluster: Cluster) -> None:
    cluster.ended("sft", 137)
    assert cluster.one().kind == "killed"


@pytest.mark.parametrize(
    ("status", "kind", "fix"),
    [
        (
            {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."},
            "evicted",
            "tasks.align.scratch",
        ),
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory."},
            "evicted",
            "raise tasks.align.memory",
        ),
        (
            {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than …"},
            "deadline",
            "raise tasks.align.timeout_s",
        ),
        ({"reason": "NodeLost", "message": "Node n1 is unresponsive"}, "node-lost", "vila resume"),
        (
            {
                "reason": "Terminated",
                "message": "Pod was terminated in response to imminent node shutdown.",
            },
            "node-lost",
            "describe node n1",
        ),
        (
            {"reason": "Preempting", "message": "Preempted in order to admit critical pod"},
            "preempted",
            "spot",
        ),
        (
            {"reason": "UnexpectedAdmissionError", "message": "no healthy devices"},
            "refused",
            "describe node n1",
        ),
    ],
)
def test_what_ends_a_pod(cluster: Cluster, status: dict[str, Any], kind: str, fix: str) -> None:
    cluster.node("n1")
    killed = _containers("Failed", {"terminated": {"exitCode": 137, "reason": "Error"}})
    cluster.pod("align", {**killed, **status}, nodeName="n1")
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("align", kind)
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("PreemptionByScheduler", "preempted"),
        ("DeletionByTaintManager", "node-lost"),
        ("DeletionByPodGC", "node-lost"),
        ("EvictionByEvictionAPI", "evicted"),
        ("TerminationByKubelet", "evicted"),
    ],
)
def test_disruptions_have_a_condition(cluster: Cluster, reason: str, kind: str) -> None:
    cluster.node("n1")
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "so"}
    cluster.pod("align", {"phase": "Failed", "conditions": [condition]}, nodeName="n1")
    assert cluster.one().kind == kind


def test_a_pod_on_a_node_that_does_not_report(cluster: Cluster) -> None:
    cluster.node("n1", ready="Unknown")
    cluster.node("n2")
    cluster.pod("align", _containers("Running", {"running": {}}), nodeName="n1")
    cluster.pod("sft", _containers("Running", {"running": {}}), nodeName="n2")
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("align", "node-lost")
    assert "node n1: its kubelet does not report" in finding.message


def test_only_the_last_attempt_counts(cluster: Cluster) -> None:
    cluster.node("n1")
    cluster.ended("sft", 137, "OOMKilled")
    cluster.pod("sft", _containers("Running", {"running": {}}), nodeName="n1")
    assert cluster.found() == []
    cluster.waiting("sft", "ErrImagePull", "not found")
    assert cluster.one().kind == "image-pull"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("error: s3://vila/runs/r: can't be written: there is no such bucket; …", "bucket-missing"),
        ("error: s3://vila/runs/r: can't be written: access denied; check …", "store-read-only"),
        ("error: s3://vila/x: can't be read: RequestTimeTooSkewed: The difference …", "clock-skew"),
        ("error: s3://vila/x: can't be read: the secret key is wrong; check", "store-credentials"),
        ("error: s3://vila/x: can't be read: the server does not answer (…)", "store-unreachable"),
        (
            "error: https://10.0.0.1: does not know trainjobs in trainer.kubeflow.org/v1alpha1: "
            "the CRD trainjobs.trainer.kubeflow.org of Kubeflow Trainer 2.3.0 is not installed",
            "crd-missing",
        ),
        ("error: https://10.0.0.1: forbidden (kubectl auth can-i create trainjobs)", "rights"),
        (
            "error: admission webhook denied the request: spec.runtimeRef: "
            'ClusterTrainingRuntime "vila-torch" not found',
            "trainjob",
        ),
        ("ValueError: bad data", "failed"),
    ],
)
def test_what_a_step_could_only_write_to_its_log(cluster: Cluster, line: str, kind: str) -> None:
    pod = cluster.ended("prepare", 1)
    cluster.kube.write_log("kubeflow", pod["metadata"]["name"], "starting", line, "")
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("prepare", kind)
    assert " ".join(line.split())[:60] in finding.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NoSuchBucket", "bucket-missing"),
        ("AccessDenied", "store-read-only"),
        ("XMinioStorageFull", "store-full"),
        ("RequestTimeTooSkewed", "clock-skew"),
        ("SignatureDoesNotMatch", "store-credentials"),
        ("InvalidAccessKeyId", "store-credentials"),
        ("ExpiredToken", "store-credentials"),
    ],
)
def test_what_the_store_itself_says_is_understood(
    code: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"<Error><Code>{code}</Code><Message>so</Message></Error>"
    refused = Answer(403, body, {"Content-Type": "application/xml"})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "tester")
    with running(*[refused] * 3) as script:
        monkeypatch.setenv("VILA_S3_ENDPOINT", script.url)
        with pytest.raises(StoreError) as caught:
            open_store("s3://vila/platform").write("runs/r1/run.json", b"{}")
    symptom = of_log(["starting", f"error: {caught.value}"], "kubeflow")
    assert symptom is not None, str(caught.value)
    assert symptom.kind == kind, str(caught.value)


def test_a_store_that_does_not_answer_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "tester")
    monkeypatch.setenv("VILA_S3_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(StoreError) as caught:
        open_store("s3://vila/platform").read("runs/r1/run.json")
    symptom = of_log([f"error: {caught.value}"], "kubeflow")
    assert symptom is not None, str(caught.value)
    assert symptom.kind == "store-unreachable"


def test_the_log_is_that_of_the_task_not_of_argos_container(cluster: Cluster) -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    statuses = [{"name": name, "state": ended} for name in ("wait", "main")]
    status = {"phase": "Failed", "containerStatuses": statuses}
    pod = cluster.pod("prepare", status)
    name = pod["metadata"]["name"]
    cluster.kube.write_log("kubeflow", name, "error: no such shard", container="main")
    cluster.kube.write_log("kubeflow", name, "executor error", container="wait")
    assert cluster.one().message == "exit code 1: error: no such shard"


def test_a_trainjob_whose_pods_a_quota_refuses(cluster: Cluster) -> None:
    cluster.pod("pretrain", _containers("Running", {"running": {}}))
    job = cluster.trainjob("pretrain")
    about = {**job, "apiVersion": "batch/v1", "kind": "Job"}
    about["metadata"] = {**job["metadata"], "name": "vila-pretrain-1-node-0"}
    cluster.kube.event(
        about,
        "FailedCreate",
        'Error creating: pods "vila-pretrain-1-node-0-0" is forbidden: exceeded quota: vila-runs, '
        "requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, limited: "
        "requests.nvidia.com/gpu=4",
    )
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("pretrain", "quota")
    assert "kubectl -n kubeflow describe resourcequota" in finding.fix


def test_a_node_of_a_trainjob_out_of_memory_explains_the_task(cluster: Cluster) -> None:
    failed = {"type": "Failed", "status": "True", "reason": "JobsFailed", "message": "a job failed"}
    cluster.trainjob("pretrain", conditions=[failed])
    cluster.ended("pretrain", 1)
    for index, code in enumerate((137, 143)):
        cluster.ended(
            "pretrain",
            code,
            "OOMKilled" if code == 137 else "Error",
            labels={
                "jobset.sigs.k8s.io/jobset-name": "vila-pretrain-1",
                "batch.kubernetes.io/job-completion-index": str(index),
                "vila.dev/run": RUN,
            },
        )
    assert cluster.one().kind == "out-of-memory"


def test_a_trainjob_that_its_controller_ignores(cluster: Cluster) -> None:
    cluster.trainjob("pretrain")
    finding = cluster.one()
    assert finding.kind == "trainjob"
    assert "kubectl -n kubeflow-system get pods" in finding.fix


def _workflow(cluster: Cluster, message: str, phase: str = "Error") -> None:
    cluster.kube.install("argoproj.io")
    nodes = {
        "a": {"type": "DAG", "displayName": "root", "id": "a"},
        "b": {"type": "DAG", "displayName": "pretrain", "id": "b", "boundaryID": "a"},
        "c": {
            "type": "Pod",
            "displayName": "executor",
            "boundaryID": "b",
            "phase": phase,
            "message": message,
        },
    }
    cluster.kube.add(
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {
                "name": "vila-x",
                "namespace": "kubeflow",
                "labels": {"pipeline/runid": KFP},
                "annotations": {"pipelines.kubeflow.org/run_name": RUN},
            },
            "spec": {},
            "status": {"phase": "Running", "nodes": nodes},
        }
    )


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('pods "x" is forbidden: exceeded quota: vila, requested: cpu=4, used …', "quota"),
        ('pods "x" is forbidden: maximum memory usage per Container is 16Gi, but …', "limit-range"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": …', "pod-security"),
        (
            'pods "x" is forbidden: error looking up service account kubeflow/vila-step: '
            'serviceaccount "vila-step" not found',
            "service-account-missing",
        ),
        (
            'pods "x" is forbidden: no PriorityClass with name vila-training was found',
            "priority-class-missing",
        ),
        ('pods "x" is forbidden: something new', "refused"),
        ("OOMKilled (exit code 137)", "out-of-memory"),
        ("Error (exit code 1)", "failed"),
    ],
)
def test_a_task_whose_pod_could_not_be_made(cluster: Cluster, message: str, kind: str) -> None:
    _workflow(cluster, message)
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("pretrain", kind)


def test_a_run_is_found_by_its_name_where_kfps_id_is_unknown(cluster: Cluster) -> None:
    _workflow(cluster, "", "Running")
    cluster.waiting("prepare", "ErrImagePull", "not found")
    [finding] = diagnose(kubernetes_api(cluster.config), cluster.config, RUN)
    assert finding.kind == "image-pull"
    assert diagnose(kubernetes_api(cluster.config), cluster.config, "another") == []


def _gated(cluster: Cluster) -> dict[str, Any]:
    gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    labels = {"kueue.x-k8s.io/queue-name": "vila"}
    return cluster.pod("sft", {"phase": "Pending", "conditions": [gate]}, labels=labels)


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("insufficient unused quota for nvidia.com/gpu in flavor vila-gpus, 4 more needed", "wait"),
        ("insufficient quota for cpu, request > maximum capacity (8)", "it will never fit"),
        ("LocalQueue vila doesn't exist", "vila cluster apply"),
        ("ClusterQueue vila is inactive", "get localqueue,clusterqueue"),
    ],
)
def test_what_kueue_says_of_a_waiting_task(cluster: Cluster, message: str, fix: str) -> None:
    cluster.kube.install("kueue.x-k8s.io")
    cluster.workload(_gated(cluster), _condition("QuotaReserved", "False", "Pending", message))
    finding = cluster.one()
    assert (finding.task, finding.kind, finding.message) == ("sft", "queued", message)
    assert fix in finding.fix


def test_a_preempted_workload_and_one_that_kueue_ignores(cluster: Cluster) -> None:
    cluster.kube.install("kueue.x-k8s.io")
    pod = _gated(cluster)
    assert "Kueue has made no workload" in cluster.one().message
    evicted = _condition("Evicted", "True", "Preempted", "Preempted to accommodate a workload")
    cluster.workload(pod, evicted)
    assert cluster.one().kind == "preempted"
    cluster.workload(pod, _condition("Admitted", "True", "Admitted", "admitted"))
    assert cluster.found() == []


def test_what_may_not_be_read_is_left_out(cluster: Cluster) -> None:
    cluster.kube.install()
    for resource in ("nodes", "events", "workflows", "workloads", "trainjobs"):
        cluster.server.deny("list", resource)
    cluster.ended("sft", 137, "OOMKilled")
    assert cluster.one().kind == "out-of-memory"
    cluster.server.deny("list", "pods")
    [finding] = examine(cluster.config, RUN, KFP)
    assert (finding.task, finding.kind) == ("", "rights")
    assert "kubectl auth can-i list pods -n kubeflow" in finding.fix


def test_a_cluster_that_cant_be_asked_is_a_finding(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(path: Path, change: Callable[[], ClusterConfig] = lambda: cluster.config) -> str:
        monkeypatch.setenv("KUBECONFIG", str(path))
        [finding] = examine(change(), RUN, KFP)
        assert finding.fix
        return finding.kind

    good = cluster.server.kubeconfig(tmp_path / "good")
    other = cluster.config.model_copy(update={"context": "prod"})
    assert kind(good, lambda: other) == "context"
    assert kind(tmp_path / "absent") == "context"
    expired = cluster.server.kubeconfig(tmp_path / "expired", token="old")
    assert kind(expired) == "credentials"
    text = good.read_text().replace(cluster.server.url, "http://127.0.0.1:1")
    (tmp_path / "closed").write_text(text)
    assert kind(tmp_path / "closed") == "api-unreachable"


def test_commands_of_the_page_exist() -> None:
    from typer.main import get_command

    from vila_ops.cli.main import app

    root: Any = get_command(app)
    named = set(re.findall(r"vila ([a-z]+)(?: ([a-z]+))?", PAGE.read_text()))
    found = {pair for pair in named if pair[0] in root.commands}
    assert {"show", "resume", "logs", "runs", "stop", "plan", "cluster"} <= {a for a, _ in found}
    steps = {second for first, second in found if first == "cluster" and second}
    assert steps == {"check", "apply", "bootstrap"}
    assert steps <= set(root.commands["cluster"].commands)


def test_every_kind_has_its_section() -> None:
    text = PAGE.read_text()
    for kind, title in KINDS.items():
        assert f"## {title}\n" in text, kind
        assert f"`{kind}`" in text
