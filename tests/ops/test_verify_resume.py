"""`vila verify resume` on a small training that ran as a task, and with what it must notice."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from toy_vila import Vila

from components.runtime.record import create_run
from tests.runtime.conftest import ROOT, Tasks
from vila_core.errors import UserError
from vila_core.store import Store, open_store
from vila_ops.verify_resume import verify_resume

STAGE = "tests.runtime.toy_training"
RUN = {
    "name": "r", "recipe": "r", "config": {}, "runner": "subprocess", "code_digest": "",
    "config_digest": "",
}  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two tasks: `toy` kept the checkpoints 10, 20 and 30, `bare` kept none."""
    folder = tmp_path_factory.mktemp("trained") / "store"
    store = open_store(folder)
    names = ("toy", "bare", "text")
    create_run(store, {"run_id": "r1", **RUN, "tasks": [[name, STAGE] for name in names]})
    tasks = Tasks(store)
    for call in (
        {"task": "toy", "stage": STAGE},
        {"task": "bare", "stage": STAGE, "config": {"train": {"steps": 7, "lr": 0.02}}},
        {"task": "text"},
    ):
        done = tasks.run(**call)
        assert done.code == 0, done.output
    return folder


@pytest.fixture
def command(vila: Vila) -> Vila:
    """The command line, with the toy stage in reach."""
    vila.env["PYTHONPATH"] = str(ROOT)
    return vila


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    shutil.copytree(trained, tmp_path / "store")
    return open_store(tmp_path / "store")


def checkpoint(store: Store, step: int) -> Path:
    folder = store.local_path("checkpoints")
    assert folder is not None
    (found,) = folder.glob(f"*/step-{step}")
    return found


def sign(folder: Path) -> None:
    """Write the manifest of a tampered checkpoint anew, so that only a replay can notice."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        data = (folder / entry["path"]).read_bytes()
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(manifest))


def verify(store: Store, task: str = "toy", **more: Any) -> Any:
    values = {"steps": None, "say": lambda _: None} | more
    return verify_resume(store, "r1", task, **values)


def test_the_tasks_own_checkpoints_are_the_witness(command: Vila, store: Store) -> None:
    text = command("verify", "resume", "r1", "--task", "toy")
    assert "toy: equal to the bit: resumed from step 20, compared at step 30" in text
    found = json.loads(store.read("runs/r1/certificates/resume-toy.json"))
    assert found["equal"] is True
    assert found["against"] == "the task's own checkpoint"
    assert found["compared"]["losses_of_steps"] == [29, 30], "the task saved at step 28"
    assert found["compared"]["samples"] == 2


def test_a_changed_optimizer_is_named(command: Vila, store: Store) -> None:
    path = checkpoint(store, 20) / "optimizer-00000.safetensors"
    tensors = load_file(path)
    tensors["exp_avg:head.bias"][3] += 0.5
    save_file(tensors, path)
    sign(path.parent)
    text = command("verify", "resume", "r1", "--task", "toy", code=1)
    assert "toy: DIFFERENT" in text
    assert "optimizer exp_avg:head.bias: " in text
    assert json.loads(store.read("runs/r1/certificates/resume-toy.json"))["equal"] is False


def test_another_order_is_named_by_its_first_sample(store: Store) -> None:
    path = checkpoint(store, 20) / "state.json"
    state = json.loads(path.read_text())
    state["source"]["drawn"] += 1
    path.write_text(json.dumps(state))
    sign(path.parent)
    found = verify(store)
    first = "step 29, pack 0, sample 0: was tiny/00000/000028, is tiny/00000/000029"
    assert found.differences[0] == first
    assert any("position in the data" in text for text in found.differences)


def test_a_training_of_two_processes_is_replayed_by_two(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    create_run(store, {"run_id": "r1", **RUN, "tasks": [["pair", STAGE]]})
    train = {"steps": 12, "lr": 0.02, "save_every": 3, "keep_every": 6, "packs_per_step": 2}
    train |= {"engine": "deepspeed", "processes": 2}
    done = Tasks(store).run(task="pair", stage=STAGE, config={"train": train})
    assert done.code == 0, done.output
    found = verify(store, "pair")
    assert found.equal, found.differences
    assert (found.against, found.first, found.last) == ("the task's own checkpoint", 6, 12)
    assert found.compared["losses_of_steps"] == [10, 12]
    assert found.compared["samples"] == 2 * 3
    path = checkpoint(store, 6) / "state.json"
    state = json.loads(path.read_text())
    state["rng"].reverse()  # each rank drops out what the other did
    path.write_text(json.dumps(state))
    sign(path.parent)
    assert not verify(store, "pair").equal


def test_a_task_without_checkpoints_is_replayed_twice(store: Store) -> None:
    found = verify(store, "bare", steps=6)
    assert found.equal
    assert (found.against, found.first, found.last) == ("an uninterrupted replay", 3, 6)
    assert found.compared["losses_of_steps"] == [4, 6]


def test_a_window_may_be_shorter_than_the_checkpoints_are_apart(store: Store) -> None:
    assert verify(store, steps=4).against == "an uninterrupted replay"


def test_what_cannot_be_verified_is_said(store: Store) -> None:
    with pytest.raises(UserError, match="task text does not train"):
        verify(store, "text")
    with pytest.raises(UserError, match="has no task 'toi'; did you mean 'toy'"):
        verify(store, "toi")
    with pytest.raises(UserError, match="at least 2 steps"):
        verify(store, steps=1)
