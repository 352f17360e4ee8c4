"""What is wrong with the pods of a run, as kubelets and schedulers leave them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.ailing import Cluster, containers
from tests.cluster.scripted import Answer, running
from vila_core.errors import StoreError
from vila_core.store import open_store
from vila_ops.cluster.symptoms import of_log


def test_a_run_that_is_well_has_no_findings(cluster: Cluster) -> None:
    cluster.node("n1")
    cluster.ended("prepare", 0)
    cluster.pod("align", containers("Running", {"running": {}}), nodeName="n1")
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
    cluster.pod("sft", containers("Running", state, last))
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
    killed = containers("Failed", {"terminated": {"exitCode": 137, "reason": "Error"}})
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
    cluster.pod("align", containers("Running", {"running": {}}), nodeName="n1")
    cluster.pod("sft", containers("Running", {"running": {}}), nodeName="n2")
    finding = cluster.one()
    assert (finding.task, finding.kind) == ("align", "node-lost")
    assert "node n1: its kubelet does not report" in finding.message


def test_only_the_last_attempt_counts(cluster: Cluster) -> None:
    cluster.node("n1")
    cluster.ended("sft", 137, "OOMKilled")
    cluster.pod("sft", containers("Running", {"running": {}}), nodeName="n1")
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
