"""A task of each role in its image, by KFP's executor: as on a cluster, with no right at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.align import align
from components.evaluate import evaluate
from components.language_model import language_model
from components.prepare import prepare
from components.register import register
from components.runtime.code import code_digest, lock_digest
from components.runtime.record import RunRecord, create_run
from components.vision_tower import vision_tower
from tests.images.conftest import Engine
from vila_core.store import ArtifactRef, Store, open_store

pytestmark = pytest.mark.slow

WORLD = {"captions": 40, "documents": 30, "conversations": 40, "questions": 3, "instructions": 40}
EVALS = {"eval_items": 4, "eval_digits": 10}
STEPS = {"steps": 2, "warmup_steps": 1, "lr": 1e-3}


@dataclass(frozen=True)
class Steps:
    """Runs the components of one run, each in its image, on a store that all of them mount."""

    engine: Engine
    folder: Path

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "store"))

    def run(
        self,
        component: Any,
        config: Mapping[str, object],
        inputs: Mapping[str, ArtifactRef] | None = None,
        code: int = 0,
    ) -> dict[str, ArtifactRef]:
        """Run a component's task by its own command; return its artifacts by name."""
        spec = component.component_spec
        container = spec.implementation.container
        role = container.image.split("/")[1].split(":")[0]
        name = component.name
        place = f"/vila/out/{name}"
        outputs = {
            key: _artifact(f"{place}/{key}", {}, output.type)
            for key, output in spec.outputs.items()
        }
        given = {
            "inputs": {
                "parameterValues": {
                    "context": json.dumps({"store": "file:///vila/store", "run_id": "r1"}),
                    "task": name,
                    "config": json.dumps(config),
                },
                "artifacts": {
                    key: _artifact(ref.uri, {"sha256": ref.sha256}, spec.inputs[key].type)
                    for key, ref in (inputs or {}).items()
                },
            },
            "outputs": {"artifacts": outputs, "outputFile": f"{place}/executor_output.json"},
        }
        arguments = [json.dumps(given) if a == "{{$}}" else a for a in container.args]
        mounts = {self.folder: "/vila"}
        done = self.engine.run(role, *container.command, *arguments, mounts=mounts, code=None)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        if code:
            return {}
        written = json.loads((self.folder / "out" / name / "executor_output.json").read_text())
        found = {
            key: value["artifacts"][0]["metadata"] | {"uri": value["artifacts"][0]["uri"]}
            for key, value in written["artifacts"].items()
        }
        return {
            key: ArtifactRef(value["uri"], value["sha256"])
            for key, value in found.items()
            if key != "metrics"
        }


def _artifact(uri: str, metadata: Mapping[str, str], kind: str) -> dict[str, Any]:
    title, _, version = kind.partition("@")
    value = {"schemaTitle": title, "schemaVersion": version}
    return {"artifacts": [{"name": "", "uri": uri, "type": value, "metadata": dict(metadata)}]}


@pytest.fixture(scope="module")
def steps(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    folder = tmp_path_factory.mktemp("steps")
    (folder / "out").mkdir()
    store = open_store(str(folder / "store"))
    create_run(store, {"run_id": "r1"})
    for path in (folder, *folder.rglob("*")):  # the containers' user is not this one
        os.chmod(path, 0o777 if path.is_dir() else 0o666)
    return Steps(engine, folder)


def test_the_recipe_goes_through_all_four_images(steps: Steps) -> None:
    data = steps.run(prepare, {"miniature": WORLD | EVALS})["data"]
    tower = steps.run(vision_tower, {"train": STEPS})["model"]
    language = steps.run(language_model, {"train": STEPS})["model"]
    config = {"trains": ["projector"], "mixture": {"coyo": 1.0}, "train": STEPS}
    bases = {"vision_tower": tower, "language_model": language}
    aligned = steps.run(align, config, {"data": data, **bases})["model"]
    seen = {"data": data, "model": aligned}
    results = steps.run(evaluate, {"shots": [0]}, seen)["results"]
    judged = {"model": aligned, "results": results, "baseline": results}
    version = steps.run(register, {"gates": []}, judged)["version"]
    assert steps.store.exists(f"artifacts/{version.sha256}/manifest.json")
    tasks = RunRecord.load(steps.store, "r1").tasks
    assert set(tasks) == {
        "prepare", "vision-tower", "language-model", "align", "evaluate", "register"
    }  # fmt: skip
    for name, attempts in tasks.items():
        assert attempts[0].finished is not None, name
        assert attempts[0].finished["status"] == "succeeded", name


def test_a_mistake_of_the_user_ends_with_its_exit_code(steps: Steps) -> None:
    steps.run(prepare, {"source": "corpora"}, code=2)


def test_the_digests_are_those_of_this_checkout(steps: Steps) -> None:
    """Same code, lock and Python: a task's key is the same in the image, so its results serve."""
    stage = "vila_core.stages.prepare"
    code = (
        "from components.runtime.code import code_digest, lock_digest\n"
        f"print(code_digest('{stage}').digest, lock_digest())"
    )
    found = steps.engine.run("data", "python3", "-c", code).stdout.split()
    assert found[0] == code_digest(stage).digest
    assert sys.version_info[:2] != (3, 11) or found[1] == lock_digest()
