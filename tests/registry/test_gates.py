"""Gates, and the stage that registers: what passes is promoted, what fails is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from components.registry import Registry
from components.registry.gates.conditions import Gate
from components.registry.gates.thresholds import threshold_verdicts
from components.registry.noise import Measured, NoiseLedger
from components.registry.stage import Config
from components.runtime import TaskFailed, run_stage
from components.runtime.record import RunRecord, create_run
from tests.runtime.toy_task import Artifact, Metrics
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.store import Store, open_store, publish

METRICS = {"vqa/accuracy@0": 0.70, "vqa/blind_accuracy@0": 0.40, "text/accuracy@0": 0.90}


@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        ({"metric": "vqa/accuracy@0", "min": 0.7}, True),
        ({"metric": "vqa/accuracy@0", "min": 0.71}, False),
        ({"metric": "vqa/accuracy@0", "max": 0.69}, False),
        ({"metric": "vqa/accuracy@0", "minus": "vqa/blind_accuracy@0", "min": 0.29}, True),
        ({"metric": "vqa/accuracy@0", "minus": "vqa/blind_accuracy@0", "min": 0.31}, False),
        ({"metric": "text/accuracy@0", "baseline_drop_max": 0.05}, True),
        ({"metric": "text/accuracy@0", "baseline_drop_max": 0.03}, False),
        ({"metric": "vqa/accuracy@0", "baseline_drop_max": 0.5}, False),  # not in the baseline
        ({"metric": "none/accuracy@0", "min": 0.0}, False),
        ({"metric": "vqa/accuracy@0", "minus": "none/accuracy@0", "min": 0.0}, False),
    ],
)
def test_verdicts(gate: dict[str, Any], passes: bool) -> None:
    (verdict,) = threshold_verdicts([Gate(**gate)], METRICS, {"text/accuracy@0": 0.94})
    assert verdict.passed == passes


def test_a_gate_with_two_conditions_gives_two_verdicts() -> None:
    gate = Gate(metric="text/accuracy@0", min=0.95, baseline_drop_max=0.1)
    verdicts = threshold_verdicts([gate], METRICS, {"text/accuracy@0": 0.94})
    assert [verdict.passed for verdict in verdicts] == [False, True]
    assert verdicts[0].text == "text/accuracy@0 is 0.9, at least 0.95 is asked"
    assert (
        verdicts[1].text == "text/accuracy@0: drop from the baseline is 0.04, at most 0.1 is asked"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gates": [{"metric": "a/b@0"}]}, "register.gates.0: .*needs min, max"),
        (
            {"gates": [{"metric": "a/b@0", "mim": 1}]},
            "gates.0.mim: unknown key; did you mean 'min'",
        ),
        ({"gates": "minature"}, "did you mean 'miniature'"),
    ],
)
def test_bad_gates(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(Config, values, where="recipe.yaml", path="register")


def test_the_default_gates_are_part_of_the_config() -> None:
    dumped = Config().model_dump(mode="json")
    assert {"miniature_knowledge/accuracy@0", "miniature_vqa/accuracy@0"} <= {
        gate["metric"] for gate in dumped["gates"]
    }
    assert validate(Config, dumped, where="x") == Config()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "store")
    create_run(store, {"run_id": "r1", "config_digest": "c0ffee"})
    return store


def artifact(store: Store, tmp_path: Path, name: str, text: str) -> Artifact:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "summary.json").write_text(text)
    ref = publish(store, folder)
    return Artifact(ref.uri, ref.sha256)


def toy(store: Store) -> Artifact:
    made = Artifact()
    context = {"store": store.uri, "run_id": "r1", "driver_pid": os.getpid()}
    run_stage(
        stage="tests.runtime.toy_stage",
        context=json.dumps({**context, "tracking": "disabled"}),
        task="sft",
        config="{}",
        inputs={},
        outputs={"result": made},
    )
    return made


def register(
    store: Store, tmp_path: Path, gates: Any, results: str | None = None
) -> tuple[Artifact, Metrics]:
    version, metrics = Artifact(), Metrics()
    context = {"store": store.uri, "run_id": "r1", "driver_pid": os.getpid()}
    text = json.dumps({"metrics": {key: {"value": v, "count": 9} for key, v in METRICS.items()}})
    run_stage(
        stage="register",
        context=json.dumps({**context, "tracking": "disabled"}),
        task="register",
        config=json.dumps({"model": "mini", "gates": gates}),
        inputs={
            "model": toy(store),
            "results": artifact(store, tmp_path, "results", results or text),
            "baseline": artifact(
                store, tmp_path, "baseline", '{"metrics": {"text/accuracy@0": 1}}'
            ),
        },
        outputs={"version": version},
        metrics=metrics,
    )
    return version, metrics


def test_a_model_that_passes_becomes_the_candidate(store: Store, tmp_path: Path) -> None:
    gates = [{"metric": "vqa/accuracy@0", "min": 0.5}]
    made, metrics = register(store, tmp_path, gates)
    assert metrics.values == {"promoted": 1.0, "version": 1.0}
    version = Registry(store).resolve("mini@candidate")
    assert version.metrics == METRICS
    assert version.evidence["passed"] is True
    assert version.evidence["gates"][0]["value"] == 0.70
    assert version.lineage["config_digest"] == "c0ffee"
    assert version.lineage["tasks"]["sft"]["outputs"] == {"result": version.artifact.sha256}
    assert made.uri.endswith(made.metadata["sha256"])
    (move,) = Registry(store).history("mini")
    assert move.why == "gates passed in run r1"


def test_a_model_that_fails_is_kept_but_not_promoted(store: Store, tmp_path: Path) -> None:
    gates = [
        {"metric": "vqa/accuracy@0", "min": 0.5},
        {"metric": "text/accuracy@0", "baseline_drop_max": 0.05},
    ]
    _, metrics = register(store, tmp_path, gates)
    assert metrics.values == {"promoted": 0.0, "version": 1.0}
    registry = Registry(store)
    assert registry.aliases("mini") == {}
    assert [g["passed"] for g in registry.version("mini", 1).evidence["gates"]] == [True, False]
    log = RunRecord.load(store, "r1").tasks["register"][0].log(store)
    assert "gate passed: vqa/accuracy@0 is 0.7, at least 0.5 is asked" in log
    assert "gate FAILED: text/accuracy@0: drop from the baseline is 0.1" in log
    assert "mini@1 is registered but not promoted: 1 of 2 gates failed" in log


def test_a_drop_within_the_noise_of_the_store_is_promoted(store: Store, tmp_path: Path) -> None:
    ledger = NoiseLedger(store)
    for seed, value in enumerate((0.86, 0.90, 0.94)):
        ledger.add(Measured("mini", "g", str(seed), "r", {"text/accuracy@0": value}))
    gate = {"metric": "text/accuracy@0", "baseline_drop_max": 0.05, "noise": "mini"}
    _, metrics = register(store, tmp_path, [gate])
    assert metrics.values["promoted"] == 1.0
    evidence = Registry(store).version("mini", 1).evidence["gates"]
    assert "the noise of 3 runs of size mini (instead of 0.05)" in evidence[0]["text"]


def test_results_that_are_none(store: Store, tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match="is not a summary of an evaluation"):
        register(store, tmp_path, [], results='{"rows": []}')
    assert Registry(store).models() == []
