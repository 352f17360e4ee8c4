"""What is wrong with a run on a cluster, by objects as kubelets, Argo and others leave them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.ailing import KFP, RUN, Cluster, containers
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.cluster.diagnose import diagnose, examine
from vila_ops.cluster.symptoms import KINDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "cluster-troubleshooting.md"


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
    cluster.pod("pretrain", containers("Running", {"running": {}}))
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
