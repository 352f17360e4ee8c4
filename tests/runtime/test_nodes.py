"""Training on two nodes that share nothing but the store, run for real: torchrun over loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.runtime.record import create_run
from tests import s3_server
from tests.runtime.conftest import ROOT, Tasks
from tests.runtime.toy_training import Config
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.store import Store, open_store
from vila_core.train.config import TrainConfig

STAGE = "tests.runtime.toy_training"
PATIENCE = 300.0  # each of several processes imports DeepSpeed


def config(nodes: int = 2, processes: int = 1, **changes: Any) -> dict[str, Any]:
    train = {
        "steps": 30,
        "lr": 0.02,
        "save_every": 2,
        "keep_every": 10,
        "engine": "deepspeed",
        "packs_per_step": 4,
        "device": "cpu",
        "nodes": nodes,
        "processes": processes,
    }
    return {"train": train | changes.pop("train", {}), **changes}


def tasks_in(store: Store, folder: Path) -> Tasks:
    create_run(store, {"run_id": "r1"})
    return Tasks(store, {"VILA_CACHE": str(folder / "cache")}, PATIENCE)


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    return tasks_in(open_store(tmp_path / "store"), tmp_path)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what two processes of one node learn."""
    folder = tmp_path_factory.mktemp("straight")
    done = tasks_in(open_store(folder / "store"), folder).run(stage=STAGE, config=config(1, 2))
    assert done.code == 0, done.output
    return done.result[1]


def starts(tasks: Tasks) -> list[dict[str, Any]]:
    return json.loads(tasks.store.read(f"{tasks.attempts()[-1].prefix}/nodes.json"))


def nodes_of(pid: int) -> list[psutil.Process]:
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if "components.runtime.nodes.entry" in process.cmdline()]


def wait_for_step(store: Store, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the store has a complete checkpoint of at least this step."""
    deadline = time.monotonic() + PATIENCE
    while True:
        names = [key.split("/") for key in store.list("checkpoints/")]
        if any(n[-1] == "manifest.json" and int(n[-2][5:]) >= step for n in names):
            return
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_two_nodes_give_the_bits_of_two_processes(
    kind: str, straight: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "directory":
        store = open_store(tmp_path / "store")
    else:
        environment = request.getfixturevalue("s3_environment")
        store = s3_server.fresh_store(environment, request.getfixturevalue("monkeypatch"))
    tasks = tasks_in(store, tmp_path)
    done = tasks.run(stage=STAGE, config=config(train={"profile_steps": [2, 2], "log_every": 1}))
    assert done.code == 0, done.output
    assert done.result[1] == straight
    attempt = tasks.attempts()[-1]
    assert attempt.finished is not None
    assert attempt.finished["status"] == "succeeded"
    assert attempt.finished["outputs"]["result"]["sha256"] == straight
    assert attempt.progress["done"] == 30
    assert [row["step"] for row in attempt.metrics(store)] == list(range(1, 31))
    assert "starts 1 process on each of 2 nodes" in attempt.log(store)
    assert [start["ended"] for start in starts(tasks)] == ["succeeded"]
    record = [key.removeprefix(f"{attempt.prefix}/") for key in store.list(attempt.prefix)]
    assert {"profile/rank-0.json", "profile/rank-1.json"} <= set(record)
    assert not [name for name in record if "/said/" in name or "/files/" in name]
    kept = {key.split("/")[2] for key in store.list("checkpoints/")}
    assert kept == {"step-10", "step-20", "step-30"}
    assert not [p for p in (tmp_path / "cache").rglob("*") if "nodes" in p.parts]
    profiled = {"profile_steps": [2, 2], "log_every": 1}
    again = tasks.run(stage=STAGE, config=config(1, 2, train=profiled))
    assert again.result[1] == straight
    assert len(tasks.attempts()) == 1, "the key is the same: nothing was computed"


@pytest.mark.slow
def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(tasks: Tasks, straight: str) -> None:
    process = tasks.start(stage=STAGE, config=config(seconds=0.2))
    wait_for_step(tasks.store, 6, process)
    node = nodes_of(process.pid)[1]
    everything = nodes_of(process.pid) + node.children(recursive=True)
    node.kill()
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    _, digest, metrics = json.loads(output.splitlines()[-1])
    assert digest == straight
    assert metrics["resumed_from"] >= 6
    assert gone(everything, 0)
    first, second = starts(tasks)
    assert first["ended"] == "lost"
    assert first["reason"] == "node 1: its process was ended by signal 9 (SIGKILL)"
    assert second["ended"] == "succeeded"
    assert "nodes lost: node 1: its process was ended by signal 9 (SIGKILL)" in output
    assert "started again (1 of 3), from step" in output


@pytest.mark.slow
def test_a_mistake_that_one_node_meets_is_the_tasks(tasks: Tasks) -> None:
    done = tasks.run(stage=STAGE, config=config(fail_rank=1))
    assert done.code == 2, done.output
    attempt = tasks.attempts()[-1]
    assert attempt.finished is not None
    expected = "corpus.jsonl:3: the line is not JSON; fix or remove it."
    assert attempt.finished["error"] == {"kind": "UserError", "message": expected}
    (only,) = starts(tasks)
    assert only["ended"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_node_outlives_its_step(tasks: Tasks, how: signal.Signals) -> None:
    process = tasks.start(stage=STAGE, config=config(seconds=0.3))
    wait_for_step(tasks.store, 2, process)
    everything = psutil.Process(process.pid).children(recursive=True)
    assert len(everything) >= 6, "two nodes, each with torchrun and a rank"
    process.send_signal(how)
    process.communicate(timeout=60)
    assert gone(everything, 10)
    if how == signal.SIGTERM:
        assert process.returncode == 130
        assert starts(tasks)[0]["ended"] == "stopped"
        resumed = tasks.run(stage=STAGE, config=config(1, 2, seconds=0.3))
        assert resumed.code == 0, resumed.output


def test_a_node_ends_when_its_step_shows_no_life(tasks: Tasks) -> None:
    code = (
        "import sys, time; from vila_core.store import open_store\n"
        "from components.runtime.nodes import entry as node\n"
        "node.LEASE_SECONDS, node.ORPHAN_SECONDS = 0.1, 1.0\n"
        "node._watch_lease(open_store(sys.argv[1]), 'place'); print('watches', flush=True)\n"
        "time.sleep(120)\n"
    )
    tasks.store.write("place/lease.json", b"1")
    watching = subprocess.Popen(
        [sys.executable, "-c", code, tasks.store.uri],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline() == "watches\n"
    for beat in range(30):  # three times as long as it would wait for a sign
        tasks.store.write("place/lease.json", str(beat).encode())
        time.sleep(0.1)
        assert watching.poll() is None
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == -signal.SIGTERM
    assert "the step shows no life any more: this node ends" in said


def test_the_cache_key_is_that_of_one_node() -> None:
    keys = [
        validate(Config, config(nodes, processes), where="test").cache_key()
        for nodes, processes in ((1, 1), (2, 1), (2, 2))
    ]
    assert keys[0] == keys[1] == keys[2]
    assert "steps" in keys[0]["train"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "plain"}, "nodes 2 needs engine: deepspeed"),
        (
            {"packs_per_step": 6, "processes": 2},
            r"packs_per_step \(6\) must be a multiple of nodes x processes \(4\)",
        ),
        ({"nodes": 0}, "nodes"),
    ],
)
def test_impossible_numbers_of_nodes_are_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(TrainConfig, config()["train"] | values, where="recipe.yaml")


def test_a_stage_that_is_called_gets_no_nodes(tmp_path: Path) -> None:
    from tests.runtime.toy_training import run

    asked = validate(Config, config(), where="test")
    with pytest.raises(UserError, match=r"(?s)only the tasks of a run.*processes: 2"):
        run(asked, {}, tmp_path)


def test_a_node_without_its_place_says_which_variables_lack(
    tasks: Tasks, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.runtime.nodes.entry import main

    tasks.store.write("runs/r1/tasks/t/001/nodes/1/call.json", b'{"join_s": 5}')
    for name in [name for name in os.environ if name.startswith("PET_")]:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"PET_NODE_RANK.*torch runtime sets them"):
        main(tasks.store.uri, "runs/r1/tasks/t/001/nodes/1")
