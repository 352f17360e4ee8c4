"""`vila plan`: its figures, where it finds the data, and what it says to mistakes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_vila import Vila

from vila_core.model import load_preset
from vila_core.stages import prepare
from vila_core.train import estimate
from vila_ops.gpus import GIB, load_gpu
from vila_ops.plan import HEADROOM, make_plan
from vila_ops.planned_data import PlannedData
from vila_ops.recipes import load_recipe

SMALL = (
    "prepare.miniature={captions: 60, documents: 40, conversations: 40, instructions: 60, "
    "eval_items: 2, eval_digits: 10}"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small miniature world, prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    config = load_recipe("quickstart", [SMALL]).configs["prepare"]
    assert isinstance(config, prepare.Config)
    prepare.run(config, {}, folder)
    return folder


def plan(recipe: str = "vila-7b", **settings: Any) -> Any:
    given = {"gpus": 8, "gpu": "h200", "data": None} | settings
    return make_plan(load_recipe(recipe), **given)


def test_the_figures_of_the_papers_7b():
    made = plan(price=3.0)
    align, pretrain, sft = made.stages
    assert align.parameters == 7_046_121_472
    assert align.trained == 1024 * 4096 + 4096  # the linear projector
    assert pretrain.trained == align.trained + 6_738_415_616
    assert [stage.zero_stage for stage in made.stages] == [2, 3, 3]
    assert pretrain.load.tokens == 640 * 4096
    # Forward and backward of a language model: about 6 FLOPs per parameter and token.
    assert 6 < sft.flops / sft.load.tokens / 6.74e9 < 7
    assert sft.seconds == pytest.approx(sft.flops * 13000 / (989e12 * 0.35 * 8))
    assert made.cost == pytest.approx(made.hours * 8 * 3)
    assert made.cost == pytest.approx(sum(stage.price for stage in made.stages))
    assert plan(gpus=16).hours == pytest.approx(made.hours / 2)
    assert plan(mfu=0.7).hours == pytest.approx(made.hours / 2)
    assert not any(stage.notes for stage in made.stages)
    twelve = plan(gpus=12).stages[1]
    assert any("use a multiple of 12" in note for note in twelve.notes)  # of 640 packs


def test_the_nodes_of_a_recipe_are_planned():
    asked = ["sft.train.nodes=2", "sft.train.processes=8"]
    made = make_plan(load_recipe("vila-7b", asked), gpus=None, gpu="h200", data=None)
    assert made.gpus == 16
    assert (made.stages[2].nodes, made.stages[2].processes) == (2, 8)
    assert not made.stages[2].notes
    eight = make_plan(load_recipe("vila-7b", asked), gpus=8, gpu="h200", data=None)
    assert eight.stages[2].notes == (
        "the stage asks for 16 ranks (train.nodes 2 x train.processes 8), not for 8",
    )


def test_what_fits_depends_on_the_gpu_and_the_zero_stage():
    sft = plan().stages[2]
    fits = {name: plan(gpu=name).fits for name in ("h200", "a100-80", "l40s")}
    assert [fits["h200"](one) for one in sft.memory] == ["checkpointed", "yes", "yes", "yes"]
    assert fits["a100-80"](sft.memory[0]) == "no"
    assert fits["l40s"](sft.memory[3]) == "checkpointed"
    gpu = load_gpu("a100-80", ranks=8, threads=1, precisions=set())
    assert gpu.memory == 79.2 * GIB
    assert plan(gpu="a100-80").room == pytest.approx(gpu.memory * (1 - HEADROOM))


def test_the_real_mixture_is_planned_as_it_will_be_trained(data: Path):
    full = plan("quickstart", gpus=1, gpu="h100")
    made = plan("quickstart", gpus=1, gpu="h100", data=PlannedData.from_folder(data))
    for bound, stage in zip(full.stages, made.stages, strict=True):
        mixed = stage.mixed
        assert mixed is not None
        assert mixed.packs == mixed.of_packs == stage.steps * stage.packs_per_step
        assert 0.5 < mixed.fill <= 1
        assert stage.load.tokens == pytest.approx(mixed.fill * stage.pack_tokens)
        assert stage.image_tokens + stage.text_tokens == pytest.approx(stage.load.tokens)
        assert stage.flops < bound.flops  # full packs are an upper bound
        for planned, most in zip(stage.memory, bound.memory, strict=True):
            assert planned.total() <= most.total()
    shares = made.stages[2].mixed.shares
    assert shares["llava"] == pytest.approx(0.62, abs=0.01)
    assert made.stages[2].mixed.epochs["flan"] > 1


def test_a_long_training_is_planned_from_its_beginning(data: Path):
    recipe = load_recipe("quickstart", ["sft.train.packs_per_step=4", "sft.train.steps=100000"])
    found = PlannedData.from_folder(data)
    sft = make_plan(recipe, gpus=1, gpu="h100", data=found).stages[2]
    assert sft.mixed is not None
    assert (sft.mixed.packs, sft.mixed.of_packs) == (2000, 400_000)
    assert sft.load.packs == 4


@pytest.mark.slow
def test_the_newest_data_of_the_recipe_are_found_in_the_store(vila: Vila, tmp_path: Path):
    recipe = tmp_path / "one.yaml"
    recipe.write_text(
        "tracking: {wandb: disabled}\nprepare: {miniature: {captions: 60, documents: 40, "
        "conversations: 40, instructions: 60, eval_items: 2, eval_digits: 10}}\n"
        "vision_tower: {train: {steps: 1, lr: 1.0e-3}, miniature: {pool: 8, batch: 4}}\n"
        "language_model: {train: {steps: 1, lr: 1.0e-3}}\n"
        "align: {mixture: {missing: 1.0}}\n"  # the run ends here
    )
    vila("run", recipe, "--runner", "inline", code=1)
    run = json.loads(vila("runs", "--json"))[0]["run_id"]
    arguments = ("plan", recipe, "--gpu", "h100", "--set", "align.mixture={coyo: 1.0}", "--json")
    found = json.loads(vila(*arguments))
    assert found["data"] == f"data that run {run} prepared"
    assert found["stages"][0]["mixture"]["shares"] == {"coyo": 1.0}
    other = json.loads(vila(*arguments, "--set", "prepare.miniature.captions=61"))
    assert other["data"].startswith("no prepared data")


def test_the_tables_fit_80_columns_and_state_their_error(vila: Vila):
    printed = vila("plan", "vila-7b", "--gpus", "8", "--price", "2.5")
    assert max(map(len, (line for line in printed.splitlines() if "ZeRO" in line))) <= 80
    low, high = estimate.ERROR
    assert f"{low:+.0%} to {high:+.0%}" in printed
    assert "ZeRO 3 *" in printed
    assert "only (c)" in printed
    assert "cost" in printed
    plain = vila("plan", "quickstart", "--gpu", "cpu")
    assert "cost" not in plain
    assert "measured" in plain or "TFLOP/s fp32" in plain


def test_json_holds_everything(vila: Vila):
    made = json.loads(vila("plan", "vila-7b", "--gpus", "4", "--gpu", "a100-80", "--json"))
    assert made["total"]["cost"] is None
    assert made["total"]["steps"] == 2326 + 12390 + 13000
    assert [row["configured"] for row in made["stages"][0]["memory"]] == [False, False, True, False]
    assert made["stages"][0]["per_step"]["image_tokens"] is None
    assert made["memory_error"] == {"lowest": estimate.ERROR[0], "highest": estimate.ERROR[1]}
    assert made["model"]["parameters"]["vision_tower"] == 303_507_456


def test_the_recipes_own_folders_are_read_when_they_are_there(tmp_path: Path):
    preset = load_preset("miniature")
    for name, config in (("tower", preset.vision_config), ("llm", preset.text_config)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    recipe = load_recipe(
        "quickstart",
        [f"vision_tower.source={tmp_path}/tower", f"language_model.source={tmp_path}/llm"],
    )
    made = make_plan(recipe, gpus=1, gpu="h100", data=None)
    assert made.model.shape.language.layers == made.model.shape.tower.layers == 2
    assert str(tmp_path) in made.model.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h20"], "did you mean 'h200'?"),
        (["--gpu", "mi300"], "known: h200, h100"),
        (["--gpus", "0"], "at least one GPU"),
        (["--mfu", "35"], "--mfu 35: is a share"),
        (["--price", "-1"], "--price -1: must be 0 or more"),
        (["--model", "vila-7"], "did you mean 'vila-7b'?"),
        (["--data", "nowhere"], "--data nowhere: holds no corpora/"),
        (["--set", "language_model.source=models/x"], "name one with --model"),
        (["--set", "sft.train.stepz=1"], "did you mean 'steps'?"),
    ],
)
def test_mistakes(vila: Vila, arguments: list[str], message: str):
    recipe = "quickstart" if "models/x" in arguments[-1] else "vila-7b"
    assert message in vila("plan", recipe, *arguments, code=2)


def test_data_without_a_corpus_of_the_mixture_are_refused(vila: Vila, data: Path):
    printed = vila("plan", "quickstart", "--data", data, "--set", "sft.mixture={lava: 1.0}", code=2)
    assert "sft: mixture.lava" in printed or "did you mean 'llava'?" in printed
    printed = vila("plan", "quickstart", "--data", data, "--set", "sft.pack_tokens=32", code=2)
    assert "pack_tokens: 32 tokens are too few" in printed


def test_help_stays_light(vila: Vila):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vila_ops.cli.main", "plan", "--help"],
        env={**vila.env, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "transformers", "numpy", "yaml", "rich.table"} & imported
