"""Gates on contamination: the corpora that a model saw against the sets it was evaluated on."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from components.registry import Registry
from components.runtime import TaskFailed, run_stage
from components.runtime.record import RunRecord, create_run
from tests.runtime.toy_task import Artifact, Metrics
from vila_core.data.dedupe import DedupeConfig, SignaturesBuilder, Signer
from vila_core.data.encode import Counts
from vila_core.data.sample import Image, Text, make_sample
from vila_core.data.shards import ShardLimits, ShardWriter
from vila_core.errors import NotInstalled
from vila_core.store import Store, open_store, publish

GATE = [{"metric": "contamination/samples", "max": 0}]
BYTES = DedupeConfig(perceptual=False)


def image(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    PilImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_corpus(folder: Path, name: str, seeds: list[int], config: DedupeConfig | None) -> None:
    with ShardWriter(folder / name, name, template="plain", limits=ShardLimits()) as writer:
        builder = SignaturesBuilder(config or BYTES)
        for number, seed in enumerate(seeds):
            key = f"{name}/0/{number:06d}"
            sample = make_sample(key, "caption", [Image(0), Text("a thing")], [image(seed)])
            writer.add(sample, Counts(2, 2, 1))
            builder.add(Signer(config or BYTES)(sample))
        path = folder / name / "signatures.npz"
        builder.build().save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        writer.finish(**({"signatures_sha256": digest} if config else {}))


def write_data(folder: Path, config: DedupeConfig | None = BYTES) -> Path:
    """Corpora a (clean) and b (one image of the set `bench`), as prepare leaves them."""
    write_corpus(folder / "corpora", "a", [1, 2], config)
    write_corpus(folder / "corpora", "b", [3, 4], config)
    for name, seed in (("bench", 4), ("other", 5)):
        (folder / "eval" / name).mkdir(parents=True)
        (folder / "eval" / name / "task.json").write_text(json.dumps({"task": name}))
        item = {"key": "q", "type": "t", "chance": 0, "parts": [{"image": "i.png"}], "answer": "x"}
        (folder / "eval" / name / "items.jsonl").write_text(json.dumps(item))
        (folder / "eval" / name / "i.png").write_bytes(image(seed))
    return folder


class Run:
    """A run of which every task takes the prepared data of `folder`."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        create_run(store, {"run_id": "r1", "config_digest": "c0ffee"})
        ref = publish(store, folder)
        self.data = Artifact(ref.uri, ref.sha256)

    def task(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Artifact],
        stage: str = "tests.registry.toy_mixture",
        output: str = "result",
    ) -> tuple[Artifact, dict[str, float]]:
        made, metrics = Artifact(), Metrics()
        context = {"store": self.store.uri, "run_id": "r1", "driver_pid": os.getpid()}
        run_stage(
            stage=stage,
            context=json.dumps({**context, "tracking": "disabled"}),
            task=name,
            config=json.dumps(config),
            inputs=inputs,
            outputs={output: made},
            metrics=metrics,
        )
        return made, metrics.values

    def registered(
        self, *mixtures: Mapping[str, Any], asked: str = "bench", gates: Any = GATE
    ) -> dict[str, float]:
        """Train once per config, evaluate and register; return the metrics of registering."""
        model = Artifact()
        for number, config in enumerate(mixtures):
            before = {"model": model} if model.uri else {}
            model, _ = self.task(f"train{number}", config, {"data": self.data, **before})
        summary = json.dumps({"metrics": {f"{asked}/accuracy@0": 1.0}})
        results, _ = self.task("evaluate", {"summary": summary}, {"data": self.data})
        inputs = {"model": model, "results": results, "baseline": results}
        _, metrics = self.task(
            "register", {"model": "mini", "gates": gates}, inputs, "register", "version"
        )
        return metrics


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(open_store(tmp_path / "store"), write_data(tmp_path / "data"))


A, B = {"mixture": {"a": 1.0}}, {"mixture": {"a": 0.5, "b": 0.5}}


def test_a_model_that_saw_no_image_of_its_evaluation_is_promoted(run: Run) -> None:
    assert run.registered(A)["promoted"] == 1
    version = Registry(run.store).resolve("mini@candidate")
    assert version.metrics["contamination/a"] == version.metrics["contamination/samples"] == 0
    assert version.evidence["contamination"]["samples"] == {"a": 2}


def test_a_set_that_was_not_asked_does_not_count(run: Run) -> None:
    assert run.registered(B, asked="other")["promoted"] == 1


def test_a_model_that_saw_one_is_kept_but_not_promoted(run: Run) -> None:
    """In an earlier stage, too."""
    assert run.registered(B, A)["promoted"] == 0
    version = Registry(run.store).version("mini", 1)
    assert version.metrics["contamination/b"] == 1
    (gate,) = version.evidence["gates"]
    assert (gate["passed"], gate["value"], gate["kind"]) == (False, 1.0, "contamination")
    assert gate["text"] == "contamination/samples is 1, at most 0 is asked"
    (example,) = version.evidence["contamination"]["examples"]
    assert (example["key"], example["detail"]) == ("b/0/000001", "its image is one of bench/q")


def test_gates_that_do_not_ask_compare_nothing(run: Run) -> None:
    assert run.registered(B, gates=[])["promoted"] == 1
    assert "contamination" not in Registry(run.store).version("mini", 1).evidence


def test_corpora_outside_of_the_run_are_compared(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "cache"))
    write_data(tmp_path / "elsewhere")
    for place in (str(tmp_path / "elsewhere"), f"file://{tmp_path}/elsewhere/corpora"):
        config = {"mixture": {"b": 1.0}, "data": place}
        assert run.registered(config)["promoted"] == 0
    assert [one.metrics["contamination/b"] for one in Registry(run.store).versions("mini")] == [
        1,
        1,
    ]


@pytest.mark.parametrize("missing", ["signatures", "evaluation set", "training"])
def test_what_cannot_be_compared_does_not_pass(tmp_path: Path, missing: str) -> None:
    data = write_data(tmp_path / "data", None if missing == "signatures" else BYTES)
    run = Run(open_store(tmp_path / "store"), data)
    config = {} if missing == "training" else A
    asked = "unheard" if missing == "evaluation set" else "bench"
    assert run.registered(config, asked=asked)["promoted"] == 0
    (gate,) = Registry(run.store).version("mini", 1).evidence["gates"]
    assert gate["text"].startswith("contamination/samples: can't be told: ")
    why = {
        "signatures": "was prepared without signatures.npz",
        "evaluation set": "the evaluation sets of unheard aren't in this run",
        "training": "no record of a training of this model",
    }
    assert why[missing] in gate["text"]


def test_a_missing_package_fails_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(open_store(tmp_path / "store"), write_data(tmp_path / "data", DedupeConfig()))

    def recheck(*_: object) -> None:
        raise NotInstalled("the package 'openpyxl' is needed to read it")

    monkeypatch.setattr("vila_core.data.dedupe.recheck", recheck)
    with pytest.raises(TaskFailed, match="'openpyxl' is needed"):
        run.registered(A)
    assert Registry(run.store).models() == []
    log = RunRecord.load(run.store, "r1").tasks["register"][0].log(run.store)
    assert "comparing the training corpora with the evaluation sets" in log
