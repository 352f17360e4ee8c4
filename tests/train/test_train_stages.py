"""The three training stages on a real (small) model and real (small) prepared data."""

from __future__ import annotations

import io
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PilImage
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from tests.train.tiny import Recorder
from vila_core.config import validate
from vila_core.data.encode import Encoder
from vila_core.data.sample import Image, Part, Sample, Text, digest
from vila_core.data.shards import ShardWriter
from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.miniature.words import build_tokenizer, write_tokenizer
from vila_core.model import load
from vila_core.model.processor import load_tokenizer
from vila_core.stages import align, pretrain, sft
from vila_core.types import QUIET, Reporter

GOLDEN = Path(__file__).parent / "golden"
COLOURS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255), "white": (255,) * 3}
TOWER = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "intermediate_size": 32}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_parts(tmp_path_factory.mktemp("parts"))


def make_parts(folder: Path) -> dict[str, Path]:
    """Write a vision tower, a language model and prepared data: what `align` takes."""
    torch.manual_seed(0)
    tower = SiglipVisionModel(SiglipVisionConfig(**TOWER, **LAYERS, vision_use_head=False))
    tower.save_pretrained(folder / "tower")
    values = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "tower/preprocessor_config.json").write_text(dumps(values))
    size = build_tokenizer().backend_tokenizer.get_vocab_size(with_added_tokens=False)
    size = min(size, load_image_token_id(folder))
    language = LlamaForCausalLM(
        LlamaConfig(vocab_size=size, hidden_size=32, intermediate_size=48, **LAYERS)
    )
    language.save_pretrained(folder / "language")
    write_tokenizer(folder / "language")
    write_data(folder / "data", folder / "language")
    return {
        "vision_tower": folder / "tower",
        "language_model": folder / "language",
        "data": folder / "data",
    }


def load_image_token_id(folder: Path) -> int:
    write_tokenizer(folder / "tokenizer")
    return int(load_tokenizer(folder / "tokenizer").convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    PilImage.new("RGB", (20, 16), colour).save(file, "PNG")
    return file.getvalue()


def write_data(data: Path, tokenizer: Path) -> None:
    loaded = load_tokenizer(tokenizer)
    image_token_id = int(loaded.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    pairs = itertools.cycle(COLOURS.items())
    corpora: dict[str, list[tuple[tuple[Part, ...], tuple[bytes, ...]]]] = {
        "coyo": [], "mmc4": [], "llava": [], "flan": [],
    }  # fmt: skip
    for _ in range(24):
        (one, one_rgb), (two, two_rgb) = next(pairs), next(pairs)
        images = (png(one_rgb), png(two_rgb))
        corpora["coyo"].append(((Image(0), Text(f"{one} .")), images[:1]))
        document = (Text("scene"), Image(0), Text(f"{one} ."), Image(1), Text(f"{two} ."))
        corpora["mmc4"].append((document, images))
        asked = (Image(0, "user"), Text("q color", "user"), Text(one, "assistant"))
        corpora["llava"].append((asked, images[:1]))
        corpora["flan"].append(((Text("q color", "user"), Text(two, "assistant")), ()))
    for name, samples in corpora.items():
        encoder = Encoder(loaded, "miniature", image_token_id, 4)
        with ShardWriter(data / "corpora" / name, name, template="miniature") as writer:
            for number, (contents, images) in enumerate(samples):
                kind: Any = {"coyo": "caption", "mmc4": "interleaved"}.get(name, "conversation")
                found = digest(contents, images)
                sample = Sample(f"{name}/00000/{number:06d}", kind, contents, images, found)
                writer.add(sample, encoder.count(sample))
            writer.finish()


def config(stage: Any, **train: Any) -> Any:
    values: dict[str, Any] = {"pack_tokens": 96, "pack_images": 8, "window": 16}
    values["train"] = {"steps": 12, "lr": 0.01, "save_every": 5, "log_every": 6} | train
    return validate(stage.Config, values, where="test")


def run_align(parts: dict[str, Path], out_dir: Path, report: Reporter = QUIET, **train: Any) -> Any:
    out_dir.mkdir(parents=True, exist_ok=True)
    return align.run(config(align, **train), parts, out_dir, report)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(one: Path, other: Path) -> set[str]:
    """The parts (first word of the name) whose weights differ."""
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_the_stages_follow_each_other_and_train_their_parts(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    report = Recorder()
    aligned = run_align(parts, tmp_path / "align", report)
    folder = aligned.outputs["model"]
    assert aligned.metrics["loss"] < aligned.metrics["loss_first"]
    assert aligned.metrics["tokens_share/coyo"] == 1
    assert aligned.metrics["supervised_share/coyo"] == 1
    table = [line.split() for line in report.lines if line.startswith("mixture")]
    assert table[0][1:4] == ["corpus", "asked", "realised"]
    assert table[1][1:4] == ["coyo", "100.00%", "100.00%"]
    assert any(line.startswith("trains projector") for line in report.lines)
    assert 0 < report.rows[-1][1]["pack_fill"] <= 1
    before = weights(parts["language_model"])
    for name, value in before.items():
        assert torch.equal(weights(folder)[f"language_model.{name}"], value), "the LM is frozen"
    inputs = {"data": parts["data"], "base": folder}
    pretrained = {}
    for stage, name in ((pretrain, "pretrain"), (sft, "sft")):
        (tmp_path / name).mkdir()
        done = stage.run(config(stage), inputs, tmp_path / name)
        folder = done.outputs["model"]
        assert changed(inputs["base"], folder) == {"projector", "language_model"}
        assert done.metrics["loss"] < done.metrics["loss_first"]
        shares = {k: v for k, v in done.metrics.items() if k.startswith("tokens_share/")}
        assert sum(shares.values()) == pytest.approx(1)
        assert len(shares) == 2
        pretrained[name] = folder
        inputs["base"] = folder
    model, processor = load(pretrained["sft"])
    encoded = processor("<image>q color a", [PilImage.new("RGB", (16, 16), COLOURS["red"])])
    assert model.generate(**encoded, max_new_tokens=3, do_sample=False).shape[0] == 1


def stage_losses(parts: dict[str, Path], out_dir: Path) -> dict[str, list[float]]:
    """Every step's loss of align, pretrain and sft, each on the model of the one before."""
    losses, inputs = {}, dict(parts)
    for stage in (align, pretrain, sft):
        name, report = stage.__name__.rpartition(".")[2], Recorder()
        (out_dir / name).mkdir(parents=True)
        done = stage.run(config(stage, save_every=0), inputs, out_dir / name, report)
        losses[name] = report.losses
        inputs["base"] = done.outputs["model"]
    return losses


def test_the_loss_curves_of_the_stages_are_the_golden_ones(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    """Refresh after a change that is meant: `python -m tests.train.refresh_golden`."""
    for name, losses in stage_losses(parts, tmp_path).items():
        golden = [float(line) for line in (GOLDEN / f"{name}_losses.txt").read_text().split()]
        # Other processors round otherwise; twelve steps let that grow to some 1e-6.
        assert losses == pytest.approx(golden, rel=1e-4), name
        assert golden[-1] < golden[0], f"the golden {name} learns"


def test_a_stage_trains_on_corpora_of_a_store_to_the_same_bytes(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "cache"))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(parts["data"], elsewhere)
    models = []
    for name, data, inputs in (
        ("prepared", None, parts),
        ("streamed", elsewhere.as_uri(), parts | {"data": tmp_path / "nothing"}),
    ):
        (tmp_path / name).mkdir()
        asked = config(align, save_every=0).model_copy(update={"data": data})
        models.append(align.run(asked, inputs, tmp_path / name).outputs["model"])
    one, other = ((model / "model.safetensors").read_bytes() for model in models)
    assert one == other
    assert len(list((tmp_path / "cache/shards").glob("?" * 64))) == 2  # the shard and the index


def test_an_interrupted_stage_writes_the_same_bytes(parts: dict[str, Path], tmp_path: Path) -> None:
    class Stop(Recorder):
        def progress(self, done: int, total: int, unit: str, **values: float) -> None:
            if done == 8:
                raise KeyboardInterrupt

    whole = run_align(parts, tmp_path / "whole").outputs["model"]
    with pytest.raises(KeyboardInterrupt):
        run_align(parts, tmp_path / "cut", Stop())
    (tmp_path / "cut/model").mkdir()
    (tmp_path / "cut/model/half").write_text("left by an attempt that died while saving")
    report = Recorder()
    resumed = run_align(parts, tmp_path / "cut", report).outputs["model"]
    assert "resumed after step 5 from step-5" in report.lines
    files = sorted(path.name for path in whole.iterdir())
    assert files == sorted(path.name for path in resumed.iterdir())
    for name in files:
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_a_stage_resumed_with_other_loader_workers_writes_the_same_bytes(
    before: int, after: int, parts: dict[str, Path], tmp_path: Path
) -> None:
    class Stop(Recorder):
        def progress(self, done: int, total: int, unit: str, **values: float) -> None:
            if done == 8:
                raise KeyboardInterrupt

    whole = run_align(parts, tmp_path / "whole").outputs["model"]
    (tmp_path / "cut").mkdir()
    settings = config(align)
    with pytest.raises(KeyboardInterrupt):
        align.run(
            settings.model_copy(update={"num_workers": before}), parts, tmp_path / "cut", Stop()
        )
    report = Recorder()
    settings = settings.model_copy(update={"num_workers": after})
    resumed = align.run(settings, parts, tmp_path / "cut", report).outputs["model"]
    assert "resumed after step 5 from step-5" in report.lines
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_deepspeed_trains_the_vlm_to_the_same_bytes(parts: dict[str, Path], tmp_path: Path) -> None:
    plain = run_align(parts, tmp_path / "plain", packs_per_step=2).outputs["model"]
    engine = {"engine": "deepspeed", "packs_per_step": 2}
    other = run_align(parts, tmp_path / "deepspeed", **engine).outputs["model"]
    assert changed(plain, other) == set()
    zero3 = run_align(parts, tmp_path / "zero3", **engine, zero_stage=3).outputs["model"]
    assert changed(plain, zero3) <= {"projector"}
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(zero3)[name], value, rtol=1e-3, atol=1e-5)


def test_too_little_data_is_told_before_training(parts: dict[str, Path], tmp_path: Path) -> None:
    chosen = config(align).model_copy(update={"max_epochs": {"coyo": 0.1}})
    report = Recorder()
    with pytest.raises(UserError, match=r"12 steps need .* but the mixture ends after"):
        align.run(chosen, parts, tmp_path, report)
    assert not report.rows


def test_an_unknown_corpus_is_the_users_mistake(parts: dict[str, Path], tmp_path: Path) -> None:
    chosen = config(align).model_copy(update={"mixture": {"coyoo": 1.0}})
    with pytest.raises(UserError, match=r"mixture\.coyoo.*did you mean 'coyo'"):
        align.run(chosen, parts, tmp_path)
    with pytest.raises(UserError, match="prepared corpora: none"):
        align.run(config(align), {**parts, "data": tmp_path}, tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixture": {}}, "mixture: .*at least one corpus"),
        ({"mixture": {"coyo": 0}}, "the weight of 'coyo' is 0"),
        ({"mixture_by": "samples"}, "mixture_by"),
        ({"max_epochs": {"coio": 2}}, r"max_epochs\.coio: the mixture has no corpus"),
        ({"max_epochs": {"flan": 0}}, r"max_epochs\.flan: 0.* is no number of epochs above zero"),
        ({"trains": ["projektor"]}, "trains"),
        ({"train": {"steps": 5, "lr": 1, "stepz": 3}}, r"train.stepz: unknown key; did you mean"),
    ],
)
def test_bad_configs_are_told_by_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(sft.Config, values, where="recipe.yaml")
