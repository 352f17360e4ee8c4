"""A task whose nodes are a TrainJob, whole: its pods are processes, started as Trainer does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.runtime.record import create_run
from tests.api_server import ApiServer, running
from tests.cluster.fake_trainer import (
    PLACE,
    FakeTrainer,
)
from tests.runtime.conftest import ROOT, Tasks
from vila_core.store import open_store

STAGE = "tests.runtime.toy_training"
PATIENCE = 400.0
TRAIN = {
    "steps": 12,
    "lr": 0.02,
    "save_every": 2,
    "engine": "deepspeed",
    "packs_per_step": 4,
    "device": "cpu",
}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running() as started:
        started.kube.install()
        yield started


@pytest.fixture
def trainer(server: ApiServer, tmp_path: Path) -> Iterator[FakeTrainer]:
    with FakeTrainer(server, tmp_path).working() as working:
        yield working


@pytest.fixture
def tasks(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the pods
    store = open_store(tmp_path / "store")
    create_run(store, {"run_id": "r1"})
    path = server.kubeconfig(tmp_path / "kubeconfig")
    environment = {
        "KUBECONFIG": str(path),
        "VILA_CACHE": str(tmp_path / "step"),
        "VILA_POD_NAME": "step",
        "VILA_POD_UID": "u-1",
    }
    return Tasks(store, environment, PATIENCE)


def started(tasks: Tasks, seconds: float, **place: Any) -> subprocess.Popen[str]:
    values = {"seconds": seconds, "train": {**TRAIN, "nodes": 2}}
    return tasks.start(
        stage=STAGE, config=values, context={"nodes": {"toy": {**PLACE, "env": [], **place}}}
    )


def starts(tasks: Tasks) -> list[dict[str, Any]]:
    return json.loads(tasks.store.read(f"{tasks.attempts()[-1].prefix}/nodes.json"))


def wait_for_step(tasks: Tasks, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        names = [key.split("/") for key in tasks.store.list("checkpoints/")]
        if any(n[-1] == "manifest.json" and int(n[-2][5:]) >= step for n in names):
            return
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_task_says_what_its_nodes_wait_for_and_gives_up_in_time(
    tasks: Tasks, trainer: FakeTrainer, server: ApiServer
) -> None:
    trainer.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    process = started(tasks, 0.0, wait_s=4)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, output
    assert f"waiting: node 0: Unschedulable: {trainer.unschedulable}" in output
    finished = tasks.attempts()[-1].finished
    assert finished is not None
    assert "the nodes did not come within 4 s" in finished["error"]["message"]
    assert "Insufficient nvidia.com/gpu" in finished["error"]["message"]
    assert server.kube.find("TrainJob") == []


@pytest.mark.slow
def test_nodes_that_never_reach_the_store_are_heard_by_their_pods_logs(
    tasks: Tasks, trainer: FakeTrainer
) -> None:
    broken = [{"name": "PYTHONHOME", "value": "/nowhere"}]
    process = started(tasks, 0.0, restarts=1, env=broken)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, output
    assert "Fatal Python error" in output
    assert len(trainer.started) == 2
    finished = tasks.attempts()[-1].finished
    assert finished is not None
    assert (
        "the nodes were lost 2 times, the last time: node 0: its container ended with 1"
        in (finished["error"]["message"])
    )


@pytest.mark.slow
def test_a_lost_node_is_made_up_for_to_the_same_bits(
    tasks: Tasks, trainer: FakeTrainer, server: ApiServer, tmp_path: Path
) -> None:
    process = started(tasks, 0.3)
    wait_for_step(tasks, 4, process)
    trainer.kill(f"{trainer.started[0]}-node-0-1")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    _, digest, metrics = json.loads(output.splitlines()[-1])
    assert metrics["resumed_from"] >= 4
    first, second = starts(tasks)
    assert first["ended"] == "lost"
    assert first["reason"] == "node 1: its container ended with 137 on gpu-1 (Error)"
    assert second["ended"] == "succeeded"
    assert second["name"] == f"TrainJob {trainer.started[1]} in namespace vila"
    assert len(trainer.started) == 2
    assert server.kube.find("TrainJob") == server.kube.find("Pod") == []
    assert trainer.processes() == []
    store = open_store(tmp_path / "alone")
    create_run(store, {"run_id": "r1"})
    alone = Tasks(store, {"VILA_CACHE": str(tmp_path / "cache")}, PATIENCE)
    straight = alone.run(stage=STAGE, config={"train": {**TRAIN, "processes": 2}})
    assert straight.code == 0, straight.output
    assert digest == straight.result[1]


@pytest.mark.slow
def test_a_stop_deletes_the_train_job_and_waits_for_its_pods(
    tasks: Tasks, trainer: FakeTrainer, server: ApiServer
) -> None:
    process = started(tasks, 0.3)
    wait_for_step(tasks, 2, process)
    everything = trainer.processes()
    assert len(everything) >= 6, "two nodes, each with torchrun and a rank"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert server.kube.find("TrainJob") == server.kube.find("Pod") == []
    assert not psutil.wait_procs(everything, timeout=60)[1]
    assert starts(tasks)[0]["ended"] == "stopped"
    assert tasks.attempts()[-1].finished["status"] == "stopped"  # type: ignore[index]
    assert os.environ.get("KUBECONFIG") is None
