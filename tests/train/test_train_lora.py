"""LoRA in a real stage: what trains, what is saved, exact resume, every ZeRO stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train import test_train_stages as stages
from tests.train.tiny import Recorder
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.model import load
from vila_core.stages import align, sft
from vila_core.types import QUIET, Reporter

pytest.importorskip("peft")
parts = stages.parts  # the fixture
LORA = {"r": 4, "alpha": 8, "dropout": 0.1}


@pytest.fixture(scope="module")
def aligned(parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `sft` takes."""
    done = stages.run_align(parts, tmp_path_factory.mktemp("aligned"), steps=2, save_every=0)
    return {"data": parts["data"], "base": done.outputs["model"]}


def tune(
    inputs: dict[str, Path],
    out_dir: Path,
    report: Reporter = QUIET,
    lora: dict[str, Any] = LORA,
    **train: Any,
) -> Path:
    out_dir.mkdir(exist_ok=True)
    values = stages.config(sft, **{"steps": 8, **train}).model_dump(mode="json")
    config = validate(sft.Config, values | {"lora": lora}, where="test")
    return sft.run(config, inputs, out_dir, report).outputs["model"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft's loader
def test_adapters_train_are_merged_and_saved_for_peft(
    aligned: dict[str, Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    report = Recorder()
    folder = tune(aligned, tmp_path / "out", report, steps=20)
    before, after = stages.weights(aligned["base"]), stages.weights(folder)
    assert stages.changed(aligned["base"], folder) == {"projector", "language_model"}
    moved = {n for n in before if n.startswith("language_model.") and not before[n].equal(after[n])}
    linear = {f"{name}_proj.weight" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert {name.rsplit(".", 1)[0].split(".")[-1] + ".weight" for name in moved} == linear
    assert len(moved) == 2 * len(linear)
    assert report.losses[-1] < report.losses[0]
    rank = {n: torch.linalg.matrix_rank((after[n] - before[n]).double(), rtol=1e-4) for n in moved}
    assert all(0 < value <= 4 for value in rank.values())
    sizes = 2 * (4 * (32 + 32) * 4 + 3 * (32 + 48) * 4)  # q, k, v, o and gate, up, down
    assert any(f"language_model {sizes:,}" in line for line in report.lines)
    # The folder is an ordinary one, and the adapter on the base model is the same model.
    merged, _ = load(folder)
    base, _ = load(aligned["base"])
    ids = torch.arange(12)[None] + 20
    untuned = base.language_model(input_ids=ids).logits  # now: peft changes the module in place
    tuned = PeftModel.from_pretrained(base.language_model, str(folder / "adapter")).eval()
    expected = merged.language_model(input_ids=ids).logits
    torch.testing.assert_close(tuned(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert not untuned.allclose(expected, atol=1e-3)


@pytest.mark.parametrize(
    "engine",
    [{}, pytest.param({"engine": "deepspeed", "zero_stage": 3}, marks=pytest.mark.slow)],
    ids=str,
)
def test_it_resumes_to_the_same_bytes(
    aligned: dict[str, Path], tmp_path: Path, engine: dict[str, Any]
) -> None:
    class Stop(Recorder):
        def progress(self, done: int, total: int, unit: str, **values: float) -> None:
            if done == 7:
                raise KeyboardInterrupt

    whole = tune(aligned, tmp_path / "whole", **engine)
    with pytest.raises(KeyboardInterrupt):
        tune(aligned, tmp_path / "cut", Stop(), **engine)
    saved = load_file(tmp_path / "cut/checkpoints/step-5/weights-00000.safetensors")
    assert all("lora_" in name or "projector" in name for name in saved), "the base isn't copied"
    with pytest.raises(UserError, match="can't resume"):
        tune(aligned, tmp_path / "cut", lora={**LORA, "alpha": 9}, **engine)
    report = Recorder()
    resumed = tune(aligned, tmp_path / "cut", report, **engine)
    assert any("resumed after step 5" in line for line in report.lines)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_zero_stage_learns_the_same(
    aligned: dict[str, Path], tmp_path: Path, stage: int, precision: str
) -> None:
    plain, other = Recorder(), Recorder()
    common = {"precision": precision, "save_every": 0, "lora": {**LORA, "dropout": 0.0}}
    expected = tune(aligned, tmp_path / "plain", plain, **common)
    engine = {"engine": "deepspeed", "zero_stage": stage, "activation_checkpointing": True}
    found = tune(aligned, tmp_path / "zero", other, **common, **engine)
    assert other.losses == pytest.approx(plain.losses, rel=1e-5 if precision == "fp32" else 0.03)
    base, after = stages.weights(aligned["base"]), stages.weights(found)
    for name, value in stages.weights(expected).items():
        adapted = "_proj.weight" in name and name.startswith("language_model.")
        if name.startswith("projector") or adapted:
            if precision == "fp32":
                torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(after[name], base[name]), f"{name} is frozen, unrounded"


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        (align, {}, "lora: .* it adapts the language model, which `trains` doesn't name"),
        (sft, {"r": 0}, "lora.r"),
        (sft, {"ranks": 4}, "lora.ranks: unknown key"),
    ],
)
def test_mistakes_are_told_by_key(stage: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(stage.Config, {"lora": values}, where="recipe.yaml")


def test_target_modules_that_are_not_there_are_told(
    aligned: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"lora\.target_modules: query: .* it has .*q_proj"):
        tune(aligned, tmp_path / "out", lora={"target_modules": ["query"]})
    only = tune(aligned, tmp_path / "only", lora={"target_modules": ["q_proj"]})
    before, after = stages.weights(aligned["base"]), stages.weights(only)
    moved = [name for name, value in after.items() if not value.equal(before[name])]
    assert {name.split(".")[-2] for name in moved if name.startswith("language")} == {"q_proj"}
