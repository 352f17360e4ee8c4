"""Import and export: every layout there and back, bit for bit, and against the other library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaConfig, LlavaForConditionalGeneration

from tests.model.folders import TEXT, TOWER, write_language_model, write_tower
from vila_core.errors import UserError
from vila_core.layouts import LAYOUTS
from vila_core.model import build, load, load_tokenizer, save
from vila_core.model.layouts import exchange, keys
from vila_core.model.layouts.contents import read_ours, write_ours
from vila_core.model.layouts.files import read_tensors
from vila_core.model.presets import ModelConfig

TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def make(
    folder: Path,
    *,
    tower: str = "clip",
    language_model: str = "llama",
    projector: str = "mlp2x_gelu",
    fit: str = "pad",
    image_size: int = 32,
    **text: Any,
) -> Path:
    """Write a tiny model of ours with a chat template; return its folder."""
    write_tower(folder / "tower", TOWERS[tower], image_size=image_size)
    write_language_model(folder / "lm", language_model, **text)
    select = "patch" if tower == "clip" else "cls_patch"
    config = ModelConfig(projector=projector, vision_feature_select=select, fit=fit)  # type: ignore[arg-type]
    model, processor = build(folder / "tower", folder / "lm", config)
    torch.manual_seed(3)
    with torch.no_grad():  # norms of one and biases of zero would hide a mistake
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    processor.tokenizer.chat_template = TEMPLATE
    save(model, processor, folder / "ours")
    return folder / "ours"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors below a folder, by file-independent name."""
    found = {}
    for path in sorted(folder.rglob("model*.safetensors")):
        place = path.parent.relative_to(folder)
        found |= {f"{place}/{name}": value for name, value in load_file(path).items()}
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("tower", "language_model"), [("clip", "llama"), ("siglip", "qwen2")])
def test_there_and_back_changes_no_bit(
    tmp_path: Path, layout: str, tower: str, language_model: str
) -> None:
    fit = {"llava": "pad", "vila15": "resize"}.get(layout, "pad" if tower == "clip" else "crop")
    ours = make(tmp_path, tower=tower, language_model=language_model, fit=fit)
    found = exchange.export_model(ours, tmp_path / "out", layout=layout)
    assert 0 <= found["max_abs_difference"] <= 1e-5
    assert [row["images"] for row in found["prompts"]] == [0, 1, 2]
    assert layout.startswith(exchange.detect(tmp_path / "out"))

    exchange.import_model(tmp_path / "out", tmp_path / "again")
    assert_same(tensors(ours), tensors(tmp_path / "again"))
    before, after = read_ours(ours), read_ours(tmp_path / "again")
    for side in ("vision_config", "text_config"):
        values = [getattr(c.config, side).to_dict() for c in (before, after)]
        assert values[0] == values[1]
    for key in ("projector", "vision_feature_layer", "vision_feature_select", "image_token_id"):
        assert getattr(before.config, key) == getattr(after.config, key)
    for key in ("mean", "std", "fit", "resample", "image_size", "tokens_per_image"):
        assert getattr(before.processor, key) == getattr(after.processor, key)
    assert after.processor.tokenizer.get_vocab() == before.processor.tokenizer.get_vocab()
    assert after.processor.tokenizer.chat_template == TEMPLATE
    assert before.generation.items() <= after.generation.items()

    exchange.export_model(tmp_path / "again", tmp_path / "out2", layout=layout)
    assert_same(tensors(tmp_path / "out"), tensors(tmp_path / "out2"))
    digests = [certificate(tmp_path / name)["sha256"] for name in ("out", "out2")]
    for one in digests:  # transformers may load the same tokenizer.json under another class's name
        one.pop("tokenizer_config.json", None)
        one.pop("llm/tokenizer_config.json", None)
    assert digests[0] == digests[1]


def certificate(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "certificate.json").read_text())


NAMES = {
    "llava": (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight",
        "model.mm_projector.2.bias",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    ),
    "vila15": (
        "llm/model.layers.0.self_attn.q_proj.weight",
        "llm/lm_head.weight",
        "mm_projector/layers.2.bias",
        "vision_tower/vision_model.encoder.layers.0.mlp.fc1.weight",
    ),
    "transformers": (
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
        "multi_modal_projector.linear_2.bias",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    ),
    "transformers-4.52": (
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight",
        "model.multi_modal_projector.linear_2.bias",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_have_the_published_names(tmp_path: Path, layout: str) -> None:
    contents = read_ours(make(tmp_path))
    exchange.WRITERS[layout](contents, tmp_path / "out", 10**9)
    found = {name.removeprefix("./") for name in tensors(tmp_path / "out")}
    assert set(NAMES[layout]) <= found
    assert len(found) == len(contents.tensors)


def test_renaming_has_an_inverse_in_every_layout() -> None:
    ours = ("language_model.model.norm.weight", "language_model.lm_head.weight")
    ours += ("projector.0.weight", "projector.2.bias", "vision_tower.encoder.layers.0.x")
    for pairs in (keys.llava, keys.vila15, keys.transformers, keys.transformers_452):
        for prefix in (keys.VISION_MODEL, ""):
            for name in ours:
                theirs = keys.to_layout(name, pairs(prefix))
                assert keys.from_layout(theirs, pairs(prefix)) == name
    with pytest.raises(UserError, match="'optimizer' belongs to no part"):
        keys.from_layout("optimizer", keys.vila15())


@pytest.mark.parametrize("size", [32, 24])  # 4 x 4 patches, and an odd 3 x 3
def test_the_downsampling_projector_keeps_its_permutation(tmp_path: Path, size: int) -> None:
    ours = make(tmp_path, tower="siglip", projector="mlp_downsample", image_size=size)
    proof = exchange.export_model(ours, tmp_path / "out", layout="vila15")
    assert proof["max_abs_difference"] <= 1e-5
    weights = load_file(tmp_path / "out" / "mm_projector" / "model.safetensors")
    assert sorted(weights) == [f"layers.{n}.{end}" for n in (1, 2, 4) for end in ("bias", "weight")]
    exchange.import_model(tmp_path / "out", tmp_path / "again")
    assert_same(tensors(ours), tensors(tmp_path / "again"))
    with pytest.raises(UserError, match="transformers has no place for the projector 'mlp_down"):
        exchange.export_model(ours, tmp_path / "x", layout="transformers")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("layout", "projector"), [("llava", "linear"), ("vila15", "mlp3x_gelu")])
def test_other_projectors_of_the_released_code(tmp_path: Path, layout: str, projector: str) -> None:
    ours = make(tmp_path, projector=projector)
    exchange.export_model(ours, tmp_path / "out", layout=layout)
    exchange.import_model(tmp_path / "out", tmp_path / "again")
    assert_same(tensors(ours), tensors(tmp_path / "again"))


def test_types_stay_and_large_models_are_sharded(tmp_path: Path) -> None:
    ours = read_ours(make(tmp_path, tie_word_embeddings=True))
    half = {
        name: tensor if name.startswith("vision_tower") else tensor.bfloat16()
        for name, tensor in ours.tensors.items()
    }
    write_ours(replace(ours, tensors=half), tmp_path / "half", 10**9)
    exchange.export_model(
        tmp_path / "half", tmp_path / "out", layout="transformers", max_shard_size="40KB"
    )
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    assert all(path.stat().st_size < 40_000 + 8_000 for path in shards)  # and a header
    exchange.import_model(tmp_path / "out", tmp_path / "again")
    assert_same(half, read_tensors(tmp_path / "again"))
    model, _ = load(tmp_path / "again", dtype=torch.bfloat16)
    head = model.language_model.lm_head.weight
    assert head.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def write_llava(folder: Path) -> LlavaForConditionalGeneration:
    """Write a LLaVA as transformers does: `<image>` has id 64, random rows go to 128."""
    write_tower(folder)
    write_language_model(folder)
    load_tokenizer(folder).save_pretrained(folder)  # with `<image>`
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **TOWER},
        text_config={"model_type": "llama", **TEXT, "vocab_size": 128},
        image_token_index=64,
        image_seq_length=16,
    )
    torch.manual_seed(5)
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_folder_of_transformers_comes_in_equal_and_goes_out_the_same(tmp_path: Path) -> None:
    """Its random rows of unused ids too: they wait beside the model."""
    theirs = write_llava(tmp_path / "in")
    exchange.import_model(tmp_path / "in", tmp_path / "ours")
    ours, processor = load(tmp_path / "ours")
    assert ours.config.text_config.vocab_size == ours.config.image_token_id == 64
    encoded = processor("w5 <image> w6 w7", [Image.new("RGB", (32, 32), "red")])
    with torch.no_grad():
        difference = ours(**encoded).logits - theirs(**encoded).logits[..., :64]
    assert difference.abs().max() <= 1e-5
    exchange.export_model(tmp_path / "ours", tmp_path / "out", layout="transformers")
    assert_same(tensors(tmp_path / "in"), tensors(tmp_path / "out"))
