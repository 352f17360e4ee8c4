"""A training task of a remote store reads the prepared corpora where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from components.runtime import run_stage
from components.runtime.record import RunRecord, create_run
from tests.runtime.toy_task import Artifact
from tests.train.test_train_stages import config, make_parts
from vila_core.stages import align
from vila_core.store import ArtifactRef, Store, publish


def test_the_data_of_a_remote_store_are_streamed_not_fetched(
    s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "cache"))
    parts = make_parts(tmp_path / "parts")
    refs = {name: publish(s3_store, folder) for name, folder in parts.items()}
    create_run(s3_store, {"run_id": "r1"})
    asked = config(align, save_every=0, steps=3)
    context = {"store": s3_store.uri, "run_id": "r1", "driver_pid": os.getpid()}
    made = Artifact("model")
    run_stage(
        stage="align",
        context=json.dumps(context | {"tracking": {"wandb": "disabled"}}),
        task="align",
        config=json.dumps(asked.model_dump(mode="json")),
        inputs={name: artifact(ref) for name, ref in refs.items()},
        outputs={"model": made},
    )
    fetched = {path.name for path in (tmp_path / "cache/artifacts").iterdir()}
    assert refs["language_model"].sha256 in fetched
    assert refs["data"].sha256 not in fetched
    assert len(list((tmp_path / "cache/shards").glob("?" * 64))) == 2  # coyo's shard and index
    [attempt] = RunRecord.load(s3_store, "r1").tasks["align"]
    assert attempt.started["key_parts"]["inputs"]["data"] == refs["data"].sha256
    assert f"the corpora are read from artifact+{refs['data'].uri}" in attempt.log(s3_store)
    (tmp_path / "local").mkdir()
    local = align.run(asked, parts, tmp_path / "local").outputs["model"]
    assert publish(s3_store, local).sha256 == made.metadata["sha256"]


def artifact(ref: ArtifactRef) -> Artifact:
    found = Artifact(ref.uri)
    found.metadata["sha256"] = ref.sha256
    return found
