"""Checkpoints in a remote store, and the ones that stay when a task has succeeded."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from components.runtime.mirror import StoreMirror, settle
from components.runtime.record import create_run
from tests import s3_server
from tests.runtime.conftest import Tasks
from tests.train.tiny import Recorder, TinySource, same_weights, settings, tiny_loss, train
from tests.train.tiny import TinyModel as Model
from vila_core.errors import StoreError
from vila_core.store import Store, open_store
from vila_core.train.loop import fit

STAGE = "tests.runtime.toy_training"


@pytest.fixture
def bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}")


def mirrored(store: Store) -> list[str]:
    """The complete checkpoints in the store, of whichever task."""
    manifests = [key for key in store.list("checkpoints/") if key.endswith("/manifest.json")]
    return sorted(key.split("/")[2] for key in manifests)


@pytest.mark.slow
def test_another_machine_continues_from_the_store_to_the_same_bits(
    bucket: Store, tasks: Tasks, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"seconds": 0.1}
    straight = tasks.run(stage=STAGE, config=config)  # in a directory store, uninterrupted
    assert straight.code == 0, straight.output
    create_run(bucket, {"run_id": "r1"})
    remote = Tasks(bucket, {"VILA_CACHE": str(tmp_path / "one")})
    process = remote.start(stage=STAGE, config=config)
    deadline = time.monotonic() + 300
    while "step-8" not in mirrored(bucket):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(mirrored(bucket)) <= 3, "two, and one more between a push and the removal after it"
    remote.environment["VILA_CACHE"] = str(tmp_path / "another")
    done = remote.run(stage=STAGE, config=config)
    assert done.code == 0, done.output
    assert done.result[1] == straight.result[1], "the digests of the weights"
    assert done.result[2]["resumed_from"] >= 8
    assert "was fetched from the store, verified" in done.output
    assert mirrored(bucket) == ["step-10", "step-20", "step-30"], "those of keep_every alone"


@pytest.mark.slow
def test_in_a_directory_store_those_of_keep_every_stay(tasks: Tasks) -> None:
    assert tasks.run(stage=STAGE).code == 0
    assert mirrored(tasks.store) == ["step-10", "step-20", "step-30"]
    plain = {"train": {"steps": 4, "lr": 0.02, "save_every": 2}}
    assert tasks.run(stage=STAGE, config=plain).code == 0
    assert len(mirrored(tasks.store)) == 3
    work = tasks.store.local_path("work")
    assert work is not None
    assert not list(work.iterdir())


def test_a_damaged_one_in_the_store_is_passed_over(bucket: Store, tmp_path: Path) -> None:
    mirror = StoreMirror(bucket.uri, "k")
    whole, _ = train(tmp_path / "whole", settings())
    for step in (5, 10):
        mirror.push(step, _checkpoint(tmp_path, step))
    name = "checkpoints/k/step-10/weights-00000.safetensors"
    data = bytearray(bucket.read(name))
    data[-1] ^= 1
    bucket.write(name, bytes(data))
    report = Recorder()
    model, found = _train(tmp_path / "new", mirror, report)
    assert found == 5
    assert same_weights(model, whole)
    text = "\n".join(report.lines)
    assert "step-10 in the store is passed over: weights-00000.safetensors does not match" in text
    assert mirror.steps() == [10, 12], "pruned as the folder is"


def test_the_newer_of_folder_and_store_is_continued(bucket: Store, tmp_path: Path) -> None:
    mirror = StoreMirror(bucket.uri, "k")
    mirror.push(5, _checkpoint(tmp_path, 5))
    _checkpoint(tmp_path, 10)
    assert _train(tmp_path / "at-10", mirror, Recorder())[1] == 10
    (tmp_path / "at-10/checkpoints/step-12/manifest.json").unlink()
    assert _train(tmp_path / "at-10", mirror, Recorder())[1] == 12


def test_a_store_that_fails_stops_no_training_but_is_told(bucket: Store, tmp_path: Path) -> None:
    class Broken(StoreMirror):
        def push(self, step: int, folder: Path) -> None:
            raise StoreError(f"{self.uri}: the server does not answer.")

    whole, _ = train(tmp_path / "whole", settings())
    report = Recorder()
    model, _ = _train(tmp_path / "cut", Broken(bucket.uri, "k"), report)
    assert same_weights(model, whole)
    assert [line for line in report.lines if "step-5 is on this machine only" in line]


def test_a_push_replaces_what_an_interrupted_one_left(bucket: Store, tmp_path: Path) -> None:
    mirror = StoreMirror(bucket.uri, "k")
    bucket.write("checkpoints/k/step-5/weights-00009.safetensors", b"half")
    assert mirror.steps() == []
    mirror.push(5, _checkpoint(tmp_path, 5))
    assert mirror.steps() == [5]
    mirror.pull(5, tmp_path / "back")
    manifest = json.loads((tmp_path / "back/manifest.json").read_text())
    names = {entry["path"] for entry in manifest["files"]}
    assert names | {"manifest.json"} == {path.name for path in (tmp_path / "back").iterdir()}
    mirror.remove(5)
    assert list(bucket.list("checkpoints/")) == []


def test_nothing_of_interrupted_pushes_stays(bucket: Store, tmp_path: Path) -> None:
    mirror = StoreMirror(bucket.uri, "k")
    begin_an_upload(bucket, "checkpoints/k/step-2/weights-00000.safetensors")
    bucket.write("checkpoints/k/step-2/optimizer-00000.safetensors", b"half")
    bucket.write("checkpoints/k/step-9/weights-00000.safetensors", b"of somebody further on")
    mirror.push(5, _checkpoint(tmp_path, 5))
    assert {key.split("/")[2] for key in bucket.list("checkpoints/")} == {"step-5", "step-9"}
    assert bucket.abort_uploads() == 0
    begin_an_upload(bucket, "checkpoints/k/step-10/weights-00000.safetensors")
    settle(bucket, "k", tmp_path, keep_every=5)
    assert {key.split("/")[2] for key in bucket.list("checkpoints/")} == {"step-5"}
    assert bucket.abort_uploads() == 0


def begin_an_upload(store: Store, key: str) -> None:
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    store._client._create_multipart_upload(bucket, f"{prefix}/{key}", {})  # type: ignore[attr-defined]


def _checkpoint(tmp_path: Path, step: int) -> Path:
    folder = tmp_path / f"at-{step}"
    train(folder, settings(keep=9))
    for path in (folder / "checkpoints").iterdir():
        if path.name != f"step-{step}":
            (path / "manifest.json").unlink()
    return folder / "checkpoints" / f"step-{step}"


def _train(folder: Path, mirror: StoreMirror, report: Recorder) -> tuple[Model, int | None]:
    model = Model()
    result = fit(
        model,
        TinySource(),
        settings(),
        loss_fn=tiny_loss,
        out_dir=folder,
        report=report,
        pack_tokens=24,
        mirror=mirror,
    )
    return model, result.resumed_from
