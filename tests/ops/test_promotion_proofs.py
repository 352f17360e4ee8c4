"""Gates on proofs, the real way: train, be told what is missing, prove it; and be caught."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from test_verify_resume import checkpoint, sign
from toy_vila import Vila

from components.registry import Registry
from components.registry.certificates import certificates, place
from vila_core.jsonio import dumps
from vila_core.store import open_store
from vila_ops.registry.promote import judge_promotion

pytestmark = pytest.mark.slow

RECIPE = """
tracking: {wandb: disabled}
prepare:
  miniature:
    {captions: 60, documents: 40, conversations: 40, instructions: 60, eval_items: 2,
     eval_digits: 10}
vision_tower: {train: {steps: 2, lr: 1.0e-3}}
language_model: {train: {steps: 2, lr: 1.0e-3}}
align: {mixture: {coyo: 1.0}, model: {projector: mlp2x_gelu}, train: {steps: 2, lr: 1.0e-3}}
pretrain: {mixture: {mmc4: 0.5, coyo: 0.5}, train: {steps: 2, lr: 1.0e-3}}
sft:
  mixture: {llava: 0.5, flan: 0.5}
  train: {steps: 4, lr: 1.0e-3, save_every: 2, keep_every: 2}
"""
GATES = """
gates:
  - resume: {tasks: [sft]}
  - export: {layouts: [transformers]}
"""


class Promotion:
    """A store with a trained model, and gates that ask for both proofs."""

    def __init__(self, vila: Vila) -> None:
        self.vila, self.store = vila, open_store(vila.store)
        vila.env["XDG_CONFIG_HOME"] = str(vila.folder / "config")
        self.recipe, self.gates = vila.folder / "small.yaml", vila.folder / "gates.yaml"
        self.recipe.write_text(RECIPE)
        self.gates.write_text(GATES)

    def train(self) -> str:
        self.vila("run", self.recipe, "--runner", "inline")
        return json.loads(self.vila("show", "last", "--json"))["run_id"]

    def ask(self, what: str, *, passes: bool) -> dict[str, dict[str, Any]]:
        """The verdicts by kind, as `vila promote WHAT --to champion --dry-run --json` has them."""
        found = judge_promotion(self.store, what, "champion", gates=str(self.gates), who="ada")
        assert found.passed == passes
        return {one.kind: one.as_json() for one in found.verdicts}

    def fix(self, verdict: Mapping[str, Any]) -> list[str]:
        """The command that a verdict names, as words."""
        assert not verdict["passed"]
        program, *words = verdict["details"]["fix"].replace("FOLDER", "exported").split()
        assert program == "vila"
        return words


def test_proofs_are_asked_for_made_found_and_doubted(vila: Vila) -> None:
    made = Promotion(vila)
    run = made.train()
    before = made.ask(run, passes=False)
    assert before["resume"]["details"]["found"] == "sft: no certificate"
    assert before["export"]["details"]["found"] == "no certificate of transformers"
    assert made.fix(before["resume"]) == ["verify", "resume", run, "--task", "sft"]
    shown = vila("promote", run, "--to", "champion", "--gates", made.gates, "--dry-run", code=1)
    assert f"vila verify resume {run} --task sft" in shown
    assert "vila registry export miniature@1 --layout transformers --to FOLDER" in shown

    vila(*made.fix(before["resume"]))
    half = made.ask(run, passes=False)
    assert half["resume"]["passed"]
    vila(*made.fix(half["export"]))
    assert (vila.folder / "exported" / "certificate.json").is_file()

    again = made.train()  # all of it comes from the cache
    version = Registry(made.store).version("miniature", 1)
    last = vila("promote", again, "--to", "champion", "--gates", made.gates, "--dry-run")
    assert "All gates pass. Nothing was moved: this was a dry run." in last
    for what in (run, again, "miniature@1"):
        found = made.ask(what, passes=True)
        proof = found["resume"]["details"]["certificates"]["sft"]
        assert (proof["run_id"], proof["equal"]) == (run, True)
        assert proof["against"] == "the task's own checkpoint"
        assert proof["sha256"] == hashlib.sha256(made.store.read(proof["place"])).hexdigest()
        proof = found["export"]["details"]["certificates"]["transformers"]
        assert proof["artifact"] == version.artifact.sha256
        assert proof["max_abs_difference"] <= proof["tolerance"]
        assert proof["compared_with"] == "transformers.LlavaForConditionalGeneration"

    _a_resume_that_differs(made, run)
    _an_export_that_does_not_hold(made, run)


def _a_resume_that_differs(made: Promotion, run: str) -> None:
    """Change the optimizer's state in the checkpoint that is resumed, and prove again."""
    proven = made.store.read(f"runs/{run}/certificates/resume-sft.json")
    path = checkpoint(made.store, 2) / "optimizer-00000.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.startswith("exp_avg:"))
    tensors[name].view(-1)[0] += 0.5
    save_file(tensors, path)
    sign(path.parent)
    assert "sft: DIFFERENT" in made.vila("verify", "resume", run, "--task", "sft", code=1)
    found = made.ask(run, passes=False)
    assert "it did NOT resume to the same bits" in found["resume"]["text"]
    proof = found["resume"]["details"]["certificates"]["sft"]
    assert proof["equal"] is False
    assert proof["place"] in found["resume"]["details"]["fix"]
    assert json.loads(made.store.read(proof["place"]))["differences"]
    assert found["export"]["passed"]

    made.store.write(proof["place"], proven)


def _an_export_that_does_not_hold(made: Promotion, run: str) -> None:
    """Say in the certificate that one prompt's logits are beyond its tolerance.

    `vila registry export` keeps no such certificate, it fails instead, so only a tampered one can
    say so.
    """
    key = place("miniature", 1, "transformers")
    kept = made.store.read(key)
    value = certificates(made.store, "miniature", 1)["transformers"]
    row = value["certificate"]["prompts"][0]
    row["max_abs_difference"] = 2 * row["tolerance"]
    made.store.write(key, dumps(value).encode())
    found = made.ask(run, passes=False)["export"]
    assert not found["passed"]
    assert "the certificate of transformers does not hold for this version" in found["text"]
    assert "remove it from registry/miniature/certificates/1" in found["details"]["fix"]

    made.store.delete(key)
    made.vila(*made.fix(made.ask(run, passes=False)["export"])[:-1], "exported-again")
    value = json.loads(made.store.read(key))
    assert value["certificate"] == json.loads(kept)["certificate"]
    assert made.ask(run, passes=True)["export"]["passed"]
