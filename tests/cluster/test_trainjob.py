"""Nodes as the pods of a TrainJob, against a local API server; pods are processes here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.kube.client import Patience, by_kubeconfig
from components.runtime.context import Context, TrainJobPlace
from components.runtime.failure import Stopped
from components.runtime.nodes import trainjob
from components.runtime.nodes.fleet import NodesCall, State
from components.runtime.nodes.trainjob import TrainJobNodes, job_prefix, train_job
from tests.api_server import ApiServer, running
from tests.cluster.fake_trainer import (
    JOB,
    PLACE,
    POD,
    SPACE,
    condition,
    container_status,
)
from tests.cluster.fake_trainer import pod_of as pod_of_node
from tests.runtime.conftest import ROOT
from vila_core.errors import UserError, VilaError
from vila_ops.cluster.config import load_cluster
from vila_ops.cluster.resources import trainjob_place

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": "u-1"}


def call(nodes: int = 2, **changes: Any) -> NodesCall:
    values: dict[str, Any] = {
        "task": "sft",
        "stage": "sft",
        "module": "vila_core.stages.sft",
        "config": {"train": {"nodes": nodes, "processes": 8}},
        "inputs": {},
        "key": "k" * 64,
        "code": "c",
    }
    return NodesCall(**values | changes)


RUN = Context(store="s3://vila/platform", run_id="r1")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running() as started:
        started.kube.install()
        yield started


Connect = Callable[[Patience], Any]


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Connect:
    path = server.kubeconfig(tmp_path / "kubeconfig")
    return lambda patience: by_kubeconfig(str(path), None, patience)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def nodes(
    server: ApiServer, api: Connect, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> TrainJobNodes:
    monkeypatch.setattr(trainjob, "_LOOK_SECONDS", -1.0)
    monkeypatch.setattr(trainjob, "_STOP_SECONDS", 1.0)
    monkeypatch.setenv("VILA_POD_NAME", "step")
    monkeypatch.delenv("VILA_POD_UID", raising=False)
    step: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "step", "namespace": SPACE},
        "spec": {"containers": [{"name": "main", "image": "train"}]},
    }
    server.kube.add(step)
    place = TrainJobPlace.model_validate(PLACE)
    return TrainJobNodes(place, call(), RUN, 1, lines.append, api)


def job_of(server: ApiServer) -> dict[str, Any]:
    (found,) = server.kube.find("TrainJob")
    return found


def make_pods(server: ApiServer, phase: str = "Running") -> list[str]:
    """Put both pods there, as JobSet and the kubelet do."""
    names = []
    for number in range(2):
        pod = pod_of_node(job_of(server), number)
        pod["status"] = {"phase": phase, "containerStatuses": [container_status({"running": {}})]}
        names.append(server.kube.add(pod)["metadata"]["name"])
    return names


def set_pod(server: ApiServer, name: str, **status: Any) -> None:
    server.kube.set_status(*POD, SPACE, name, status)


# ---- the TrainJob ------------------------------------------------------------------------------


def test_the_train_job_is_what_trainer_2_3_takes() -> None:
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    body = train_job(
        "vila-1-1-1", TrainJobPlace.model_validate(PLACE), call(), RUN, "runs/r1/x", owner=OWNER
    )
    read = TrainerV1alpha1TrainJob.from_dict(body)
    assert read is not None
    assert read.to_dict() == body, "no field that the API does not know"
    assert body["spec"]["trainer"]["numNodes"] == 2
    assert body["spec"]["trainer"]["numProcPerNode"] == 8
    assert body["spec"]["trainer"]["args"] == ["s3://vila/platform", "runs/r1/x"]
    assert body["metadata"]["labels"] == {
        "vila.dev/run": "r1",
        "vila.dev/task": "sft",
        "kueue.x-k8s.io/queue-name": "vila",
        "kueue.x-k8s.io/priority-class": "vila-training",
    }
    (patch,) = body["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]
    labels = {"vila.dev/run": "r1", "vila.dev/task": "sft", "vila.dev/node": "true"}
    assert pod["metadata"]["labels"] == labels
    assert pod["spec"]["serviceAccountName"] == "vila-step"
    assert pod["spec"]["containers"] == [{"name": "node", "volumeMounts": PLACE["volume_mounts"]}]


@pytest.mark.parametrize("cluster", ["kind", "gpu-cluster"])
def test_what_a_cluster_gives_its_nodes_goes_with_the_runtime_of_the_manifests(
    cluster: str,
) -> None:
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    place = trainjob_place(load_cluster(cluster), "sft", "sft")
    body = train_job("vila-1-1-1", place, call(), RUN, "x", owner=OWNER)
    read = TrainerV1alpha1TrainJob.from_dict(body)
    assert read is not None
    assert read.to_dict() == body
    runtime = yaml.safe_load((ROOT / "k8s/base/cluster/training-runtime.yaml").read_text())
    assert place.runtime == runtime["metadata"]["name"]
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    theirs = job["template"]["spec"]["template"]["spec"]
    (container,) = theirs["containers"]
    assert (job["name"], container["name"]) == ("node", "node")
    mounts = [*container["volumeMounts"], *place.volume_mounts]
    paths = [mount["mountPath"] for mount in mounts]
    assert len(set(paths)) == len(paths)
    volumes = [volume["name"] for volume in [*theirs["volumes"], *place.pod.get("volumes", ())]]
    assert sorted(volumes) == sorted(mount["name"] for mount in mounts)
    assert "/var/cache/vila" in paths, "a node works there, on a read-only root"


def test_what_a_train_job_cannot_set_is_told() -> None:
    place = TrainJobPlace.model_validate({**PLACE, "pod": {"hostNetwork": True}})
    with pytest.raises(UserError, match=r"(?s)hostNetwork.*ClusterTrainingRuntime vila-torch"):
        train_job("vila-1-1-1", place, call(), RUN, "x", owner=None)


def test_names_and_labels_fit_whatever_runs_are_called() -> None:
    name = f"{job_prefix('r' * 200, 'sft')}-12-3"
    assert len(f"{name}-node-0-100") <= 63
    assert trainjob.label("sft") == "sft"
    assert len(trainjob.label("r" * 64)) == 40
    assert trainjob.label("a b") != "a b"


# ---- its life ----------------------------------------------------------------------------------


def test_it_is_made_followed_and_deleted(
    server: ApiServer, nodes: TrainJobNodes, lines: list[str]
) -> None:
    told = nodes.start(1, "runs/r1/tasks/sft/001/nodes/1")
    job = job_of(server)
    assert told == f"TrainJob {job['metadata']['name']} in namespace vila"
    uid = server.kube.get(*POD, SPACE, "step")["metadata"]["uid"]  # type: ignore[index]
    assert job["metadata"]["ownerReferences"] == [{**OWNER, "uid": uid}]
    assert nodes.state() == State("waiting", "0 of 2 pods are made")
    make_pods(server)
    assert nodes.state() == State("running")
    name = job["metadata"]["name"]
    server.kube.set_status(*JOB, SPACE, name, {"conditions": [condition("Complete", "Done", "")]})
    assert nodes.state() == State("ended")
    nodes.stop()
    assert server.kube.find("TrainJob") == []
    assert [pod["metadata"]["name"] for pod in server.kube.find("Pod")] == ["step"]
    assert lines == []


def test_it_goes_with_its_step(server: ApiServer, nodes: TrainJobNodes) -> None:
    nodes.start(1, "x")
    make_pods(server)
    server.kube.remove(*POD, SPACE, "step")
    assert server.kube.find("TrainJob") == server.kube.find("Pod") == []


def test_what_an_earlier_attempt_left_is_deleted_and_nothing_of_others(
    server: ApiServer, nodes: TrainJobNodes, api: Connect, lines: list[str]
) -> None:
    nodes.start(1, "x")
    place = TrainJobPlace.model_validate(PLACE)
    other = TrainJobNodes(place, call(task="pretrain"), RUN, 1, lines.append, api)
    other.start(1, "x")
    TrainJobNodes(place, call(), RUN, 2, lines.append, api).start(1, "x")
    left = {job["metadata"]["name"] for job in server.kube.find("TrainJob")}
    assert left == {f"{job_prefix('r1', 'sft')}-2-1", f"{job_prefix('r1', 'pretrain')}-1-1"}
    assert lines == [
        f"deletes TrainJob {job_prefix('r1', 'sft')}-1-1, which an earlier attempt has left"
    ]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            {
                "phase": "Pending",
                "conditions": [
                    condition(
                        "PodScheduled", "Unschedulable", "0/3 nodes: Insufficient gpu", "False"
                    )
                ],
            },
            "node 1: Unschedulable: 0/3 nodes: Insufficient gpu",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    container_status(
                        {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
                    )
                ],
            },
            "node 1: ImagePullBackOff: no such image",
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    container_status({"waiting": {"reason": "ContainerCreating"}})
                ],
            },
            "node 1: ContainerCreating",
        ),
    ],
)
def test_what_pods_wait_for_is_told(
    server: ApiServer, nodes: TrainJobNodes, status: dict[str, Any], reason: str
) -> None:
    nodes.start(1, "x")
    names = make_pods(server)
    server.kube.set_status(*POD, SPACE, names[1], status)
    assert nodes.state() == State("waiting", reason)


def test_a_suspended_one_waits_in_the_queue(server: ApiServer, nodes: TrainJobNodes) -> None:
    nodes.start(1, "x")
    name = job_of(server)["metadata"]["name"]
    told = condition("Suspended", "Suspended", "TrainJob is suspended")
    server.kube.set_status(*JOB, SPACE, name, {"conditions": [told]})
    assert nodes.state() == State(
        "queued", f"TrainJob {name} waits in queue vila: TrainJob is suspended"
    )


def terminated(code: int, reason: str) -> list[dict[str, Any]]:
    return [container_status({"terminated": {"exitCode": code, "reason": reason}})]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            {
                "phase": "Failed",
                "conditions": [condition("DisruptionTarget", "PreemptionByScheduler", "preempted")],
            },
            "its pod was disrupted on gpu-1 (PreemptionByScheduler: preempted)",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on resource: memory"},
            "its pod is Failed on gpu-1 (Evicted: low on resource: memory)",
        ),
        (
            {"phase": "Failed", "containerStatuses": terminated(137, "Error")},
            "its container ended with 137 on gpu-1 (Error)",
        ),
        (
            {"phase": "Running", "containerStatuses": [container_status({"running": {}}, 1)]},
            "its container was restarted on gpu-1",
        ),
    ],
)
def test_why_a_node_was_lost_is_told(
    server: ApiServer, nodes: TrainJobNodes, status: dict[str, Any], reason: str
) -> None:
    nodes.start(1, "x")
    names = make_pods(server)
    assert nodes.state().status == "running"
    server.kube.set_status(*POD, SPACE, names[1], status)
    assert nodes.state() == State("lost", reason, {1: reason})


def test_a_pod_that_is_gone_or_another_is_a_lost_node(
    server: ApiServer, nodes: TrainJobNodes
) -> None:
    nodes.start(1, "x")
    names = make_pods(server)
    assert nodes.state().status == "running"
    server.kube.remove(*POD, SPACE, names[0])
    expected = {0: "its pod was deleted (preempted, or its machine is gone)"}
    assert nodes.state().lost == expected
    pod = pod_of_node(job_of(server), 0)
    pod["status"] = {"phase": "Running"}
    server.kube.add(pod)
    assert nodes.state().lost == expected, "Job has made a new one, which can't join"


def test_the_end_of_a_pods_log_can_be_had(server: ApiServer, nodes: TrainJobNodes) -> None:
    nodes.start(1, "x")
    names = make_pods(server)
    nodes.state()
    server.kube.write_log(SPACE, names[1], *map(str, range(30)))
    assert nodes.last_words(1) == [str(number) for number in range(10, 30)]
    assert nodes.last_words(0) == []
    assert nodes.last_words(7) == []
    server.deny("get", "pods/log")
    assert nodes.last_words(1) == []


def test_out_of_memory_is_not_tried_again(server: ApiServer, nodes: TrainJobNodes) -> None:
    nodes.start(1, "x")
    names = make_pods(server)
    set_pod(server, names[0], phase="Failed", containerStatuses=terminated(137, "OOMKilled"))
    state = nodes.state()
    assert state.final
    assert "OOMKilled on gpu-1" in state.reason
    assert "more memory for the task in the cluster's config" in state.reason


def test_a_missing_runtime_fails_the_task_and_a_deleted_job_stops_it(
    server: ApiServer, nodes: TrainJobNodes
) -> None:
    nodes.start(1, "x")
    name = job_of(server)["metadata"]["name"]
    text = "TrainingRuntime not found: vila-torch"
    told = condition("Failed", "TrainingRuntimeNotSupported", text)
    server.kube.set_status(*JOB, SPACE, name, {"conditions": [told]})
    state = nodes.state()
    assert state.final
    assert text in state.reason
    nodes.start(2, "x")
    server.kube.remove(*JOB, SPACE, f"{job_prefix('r1', 'sft')}-1-2")
    with pytest.raises(Stopped, match="was deleted by somebody else"):
        nodes.state()


def test_an_api_that_fails_for_a_while_is_waited_for(
    server: ApiServer, nodes: TrainJobNodes, lines: list[str]
) -> None:
    server.fail("POST", "/trainjobs", status=503)
    server.fail("POST", "/trainjobs", cut=True, after=True)  # made, but the answer is lost
    nodes.start(1, "x")
    make_pods(server)
    assert nodes.state() == State("running")
    server.fail("GET", "/trainjobs/", status=500, times=2)
    assert [nodes.state() for _ in range(3)] == [State("running")] * 3
    assert lines == [
        f"{server.url}: answers 500: ordered; try again later. The nodes are not concerned",
        "the Kubernetes API answers again",
    ]
    server.fail("DELETE", "/trainjobs/", status=429)
    nodes.stop()
    assert server.kube.find("TrainJob") == []


def test_a_slow_api_holds_nobody_up(
    server: ApiServer,
    nodes: TrainJobNodes,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes.start(1, "x")
    make_pods(server)
    assert nodes.state() == State("running")
    nodes._glance.patience = Patience(connect_s=0.2, read_s=0.2, tries=1)  # type: ignore[attr-defined]
    server.fail("GET", "/trainjobs/", delay=1.0, times=8)
    assert nodes.state() == State("running")
    assert "does not answer in time" in lines[-1]


def test_rights_and_the_crd_that_lack_are_told(server: ApiServer, nodes: TrainJobNodes) -> None:
    server.deny("create", "trainjobs")
    with pytest.raises(VilaError, match=r"forbidden.*ask an administrator.*create trainjobs"):
        nodes.start(1, "x")
    server.kube.denied.clear()
    del server.kube.kinds["trainer.kubeflow.org", "v1alpha1"]
    with pytest.raises(
        VilaError,
        match=r"Kubeflow Trainer 2\.3\.0 is not installed",
    ):
        nodes.start(1, "x")


def test_a_stop_says_when_pods_stay(
    server: ApiServer, nodes: TrainJobNodes, lines: list[str]
) -> None:
    nodes.start(1, "x")
    job = job_of(server)
    job["metadata"]["finalizers"] = ["kueue.x-k8s.io/managed"]
    server.kube.add(job)
    nodes.stop()
    assert "is not gone after 1 s; see: kubectl --namespace vila get trainjob,pod" in lines[-1]
