"""`build`, `load` and `save`: all weights or none, the same bytes everywhere, nothing unpickled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from tests.model.folders import MEAN, STD, write_language_model, write_tower
from vila_core.errors import UserError
from vila_core.model import (
    ModelConfig,
    VilaForConditionalGeneration,
    build,
    freeze,
    load,
    save,
)

logging.disable_progress_bar()
MLP = ModelConfig(projector="mlp2x_gelu")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_tower(folder / "tower")
    write_language_model(folder / "words")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["clip", "siglip", "clip_vision_model", "siglip_vision_model"])
def test_the_parts_keep_their_weights(parts: Path, tmp_path: Path, kind: str) -> None:
    tower = write_tower(tmp_path, kind)
    alone = tower.vision_model if kind in ("clip", "siglip") else tower
    model, processor = build(tmp_path, parts / "words", MLP)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = alone(pixels, output_hidden_states=True).hidden_states[-2]
        wanted = wanted[:, 1:] if kind.startswith("clip") else wanted
        assert torch.equal(model.image_features(pixels), model.projector(wanted))
    words = load_file(parts / "words" / "model.safetensors")
    ours = model.language_model.state_dict()
    assert words
    assert all(torch.equal(ours[name], tensor) for name, tensor in words.items())
    assert (processor.mean, processor.std) == (tuple(MEAN), tuple(STD))
    assert processor.resample == 2
    assert model.config.image_token_id == 64 == processor.image_token_id


def test_all_of_a_half_precision_language_model_becomes_float32(
    parts: Path, tmp_path: Path
) -> None:
    write_language_model(tmp_path / "words", dtype=torch.float16)
    model, processor = build(parts / "tower", tmp_path / "words", MLP)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    save(model, processor, tmp_path / "saved")
    for dtype in (torch.float32, torch.bfloat16):
        again, _ = load(tmp_path / "saved", dtype=dtype)
        assert {p.dtype for p in again.parameters()} == {dtype}


@pytest.mark.parametrize("tied", [False, True])
def test_saved_bytes_depend_on_content_alone(parts: Path, tmp_path: Path, tied: bool) -> None:
    """Not on the folders the parts came from, nor on how often the model was loaded and saved."""
    write_language_model(tmp_path / "words", tie_word_embeddings=tied)
    shutil.copytree(tmp_path / "words", tmp_path / "elsewhere" / "words")
    shutil.copytree(parts / "tower", tmp_path / "elsewhere" / "tower")
    built = build(parts / "tower", tmp_path / "words", MLP)
    save(*built, tmp_path / "a")
    save(*build(tmp_path / "elsewhere/tower", tmp_path / "elsewhere/words", MLP), tmp_path / "b")
    again = load(tmp_path / "a")
    save(*again, tmp_path / "c")
    first = contents(tmp_path / "a")
    assert contents(tmp_path / "b") == first
    assert contents(tmp_path / "c") == first
    assert not any(str(tmp_path).encode() in data for data in first.values())
    states = (built[0].state_dict(), again[0].state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    table, head = again[0].get_input_embeddings(), again[0].get_output_embeddings()
    assert (table.weight.data_ptr() == head.weight.data_ptr()) == tied
    stored = load_file(tmp_path / "a" / "model.safetensors")
    assert ("language_model.lm_head.weight" in stored) != tied


def test_the_projector_follows_from_its_seed_alone(parts: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        config = ModelConfig(projector="linear", seed=seed)
        return build(parts / "tower", parts / "words", config)[0].projector.weight  # type: ignore

    torch.manual_seed(5)
    first = weights(0)
    before = torch.get_rng_state()
    assert torch.equal(weights(0), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(weights(1), first)
    assert first.std().item() == pytest.approx(0.02, rel=0.1)


def test_automodel_loads_a_saved_model(parts: Path, tmp_path: Path) -> None:
    save(*build(parts / "tower", parts / "words", MLP), tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(model, VilaForConditionalGeneration)


def without(folder: Path, copy: Path, tensor: str) -> None:
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    del weights[tensor]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})


def test_missing_weights_are_refused_not_invented(parts: Path, tmp_path: Path) -> None:
    without(parts / "tower", tmp_path / "tower", "encoder.layers.0.mlp.fc1.bias")
    with pytest.raises(UserError, match=r"1 tensors are missing, first 'encoder.layers.0.mlp"):
        build(tmp_path / "tower", parts / "words", MLP)
    save(*build(parts / "tower", parts / "words", MLP), tmp_path / "whole")
    without(tmp_path / "whole", tmp_path / "model", "projector.0.weight")
    with pytest.raises(UserError, match=r"first 'projector\.0\.weight'"):
        load(tmp_path / "model")


def test_damaged_and_pickled_weights_are_refused(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "tower", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut: can't be loaded"):
        build(tmp_path / "cut", parts / "words", MLP)
    shutil.copytree(parts / "tower", tmp_path / "pickled")
    torch.save(
        load_file(parts / "tower" / "model.safetensors"), tmp_path / "pickled/pytorch_model.bin"
    )
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no file named model\.safetensors"):
        build(tmp_path / "pickled", parts / "words", MLP)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vision_feature_layer": -5}, "vision_feature_layer -5 does not exist"),
        ({"projector": "mlp"}, "projector 'mlp' is not one of"),
        (
            {"projector": "mlp_downsample", "vision_feature_select": "cls_patch"},
            "class token stands outside of the grid",
        ),
    ],
)
def test_wrong_settings_are_named(parts: Path, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(parts / "tower", parts / "words", ModelConfig(**values))


def test_wrong_folders_are_named(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        build(tmp_path, parts / "words", MLP)
    with pytest.raises(UserError, match="is not a vision tower"):
        build(parts / "words", parts / "words", MLP)
    with pytest.raises(UserError, match="is not a VILA model folder"):
        load(parts / "words")
    shutil.copytree(parts / "words", tmp_path / "words")
    (tmp_path / "words" / "processor_config.json").write_text("{}")
    with pytest.raises(UserError, match="model_type 'llama'"):
        load(tmp_path / "words")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "words" / name).unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        build(parts / "tower", tmp_path / "words", MLP)
    shutil.copytree(parts / "tower", tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="mean and std are unknown"):
        build(tmp_path / "bare", parts / "words", MLP)


def test_a_padded_embedding_table_leaves_image_beyond_it(parts: Path, tmp_path: Path) -> None:
    """Qwen's tables have more rows than its tokenizer has words."""
    write_language_model(tmp_path / "words", vocab_size=80)
    model, processor = build(parts / "tower", tmp_path / "words", MLP)
    assert model.config.image_token_id == processor.image_token_id == 80
    ids = processor.tokenizer("w4 <image> w5")["input_ids"]
    assert ids == [4, 80, 5]
    assert model.get_input_embeddings().weight.shape[0] == 80


def test_a_frozen_tower_does_not_vary_in_training(parts: Path, tmp_path: Path) -> None:
    write_tower(tmp_path, attention_dropout=0.5)
    model, _ = build(tmp_path, parts / "words", MLP)
    pixels = torch.randn(2, 3, 32, 32)
    model.train()
    assert not torch.equal(model.image_features(pixels), model.image_features(pixels))
    freeze(model, ["projector"])
    for _ in range(2):
        assert model.training
        assert torch.equal(model.image_features(pixels), model.image_features(pixels))
        model.train()
    features = model.image_features(pixels)
    features.sum().backward()
    assert all(p.grad is None for p in model.vision_tower.parameters())
    assert all(p.grad is not None for p in model.projector.parameters())
    freeze(model, ["vision_tower"])
    model.image_features(pixels).square().sum().backward()
    assert any(p.grad is not None for p in model.vision_tower.parameters())
