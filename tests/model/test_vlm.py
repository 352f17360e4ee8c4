"""The model against transformers' own LLaVA, generation, saving, and the processor."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.utils import logging

from tests.model.conftest import sample
from vila_core.errors import UserError
from vila_core.model import (
    VilaConfig,
    VilaForConditionalGeneration,
    VilaProcessor,
    build_preset,
    freeze,
    load_preset,
    preset_names,
)
from vila_core.model.layouts import keys
from vila_core.model.projector import Downsample

logging.disable_progress_bar()
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
TOWERS = {
    "clip": CLIPVisionConfig(**SHAPE, image_size=32, patch_size=8),
    "siglip": SiglipVisionConfig(**SHAPE, image_size=32, patch_size=8, vision_use_head=False),
}
LANGUAGE_MODELS = {
    "llama": LlamaConfig(**SHAPE, vocab_size=101, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SHAPE, vocab_size=101, num_key_value_heads=2),
}


def pair(
    tower: str, language_model: str
) -> tuple[VilaForConditionalGeneration, LlavaForConditionalGeneration]:
    """Our model and transformers' with the same weights; its table has one row more."""
    select = "patch" if tower == "clip" else "cls_patch"
    torch.manual_seed(1)
    ours = VilaForConditionalGeneration(
        VilaConfig(
            vision_config=TOWERS[tower].to_dict(),
            text_config=LANGUAGE_MODELS[language_model].to_dict(),
            projector="mlp2x_gelu",
            vision_feature_select=select,
            image_token_id=101,
        )
    ).eval()
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=TOWERS[tower].to_dict(),
            text_config={**LANGUAGE_MODELS[language_model].to_dict(), "vocab_size": 102},
            vision_feature_select_strategy="default" if tower == "clip" else "full",
            image_token_index=101,
        )
    ).eval()
    theirs.model.vision_tower.load_state_dict(ours.vision_tower.state_dict())
    for mine, name in ((0, "linear_1"), (2, "linear_2")):
        layer = getattr(theirs.model.multi_modal_projector, name)
        layer.load_state_dict(ours.projector[mine].state_dict())  # type: ignore[index]
    state = ours.language_model.model.state_dict()
    table = torch.zeros(102, 32)
    table[:101] = state.pop("embed_tokens.weight")
    theirs.model.language_model.load_state_dict({**state, "embed_tokens.weight": table})
    with torch.no_grad():
        theirs.lm_head.weight.zero_()
        theirs.lm_head.weight[:101] = ours.language_model.lm_head.weight
    return ours, theirs


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
def test_logits_and_greedy_ids_equal_transformers_llava(tower: str, language_model: str) -> None:
    ours, theirs = pair(tower, language_model)
    for images in range(5):
        ids = torch.tensor([sample(ours, images, 6, seed=images)])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if images:
            inputs["pixel_values"] = torch.randn(images, 3, 32, 32)
        with torch.no_grad():
            difference = ours(**inputs).logits - theirs(**inputs).logits[..., :101]
        assert difference.abs().max() <= 1e-5
        settings = {
            "max_new_tokens": 6,
            "do_sample": False,
            "pad_token_id": 0,
            "eos_token_id": None,
        }
        assert torch.equal(
            ours.generate(**inputs, **settings), theirs.generate(**inputs, **settings)
        )


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
def test_gradients_equal_transformers_llava(tower: str, language_model: str) -> None:
    """Of every parameter, with two images, to 1e-5 of the largest entry of each tensor's."""
    ours, theirs = pair(tower, language_model)
    ids = torch.tensor([sample(ours, 2, 6, seed=7)])
    targets = ids[0, 1:].masked_fill(ids[0, 1:] == 101, -100)
    pixels = torch.randn(2, 3, 32, 32)
    for model in (ours, theirs):
        model.train()
        logits = model(input_ids=ids, pixel_values=pixels).logits[0, :-1, :101]
        torch.nn.functional.cross_entropy(logits, targets).backward()
    table = keys.transformers_452("")
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    compared = 0
    for name, parameter in ours.named_parameters():
        other = expected.pop(keys.to_layout(name, table))
        if parameter.grad is None:  # behind the layer whose features are taken
            assert other is None or not other.any(), name
            assert name.startswith("vision_tower."), name
            continue
        assert other is not None, name
        other = other[: len(parameter)]
        # Attention can't see the bias of its keys: all of that gradient is rounding.
        scale = parameter.grad.abs().max()
        if name.endswith("k_proj.bias"):
            weight = ours.get_parameter(name.replace("bias", "weight")).grad
            assert weight is not None
            scale = weight.abs().max()
        assert scale > 0, name
        assert (parameter.grad - other).abs().max() <= 1e-5 * scale, name
        compared += 1
    assert not expected
    assert compared > 60


def test_generation_in_a_padded_batch_equals_one_by_one(
    model: VilaForConditionalGeneration,
) -> None:
    samples = [
        sample(model, images, words, seed)
        for seed, (images, words) in enumerate([(1, 3), (0, 9), (2, 5)])
    ]
    pixels = torch.randn(3, 3, 32, 32)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    longest = max(map(len, samples))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in samples])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in samples])
    together = model.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, **settings)
    for row, (one, its_pixels) in enumerate(
        zip(samples, (pixels[:1], None, pixels[1:]), strict=True)
    ):
        alone_ids = torch.tensor([one])
        alone = model.generate(
            input_ids=alone_ids,
            attention_mask=torch.ones_like(alone_ids),
            pixel_values=its_pixels,
            **settings,
        )
        assert torch.equal(together[row, -8:], alone[0, -8:])


def test_images_and_places_must_agree(model: VilaForConditionalGeneration) -> None:
    ids = torch.tensor([sample(model, 2, 3, 0)])
    with pytest.raises(ValueError, match="1 images need 4 image places"):
        model(input_ids=ids, pixel_values=torch.zeros(1, 3, 32, 32))


def test_saving_is_exact_and_repeatable(
    model: VilaForConditionalGeneration, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / name)
    digests = {
        hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest()
        for name in ("a", "b")
    }
    assert len(digests) == 1
    again = VilaForConditionalGeneration.from_pretrained(tmp_path / "a")
    assert again.config.projector == model.config.projector
    assert again.config.image_token_id == model.config.image_token_id
    for (name, mine), other in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other), name


@pytest.mark.parametrize(
    ("name", "millions", "tokens"),
    [
        ("miniature", 0.285, 4),
        ("vila-7b", 7046.1, 576),
        ("vila-7b-code", 7062.9, 576),
        ("vila-13b", 13324.6, 576),
        ("vila-13b-code", 13350.8, 576),
    ],
)
def test_presets_build_with_their_published_shapes(name: str, millions: float, tokens: int) -> None:
    with torch.device("meta"):
        built = build_preset(load_preset(name))
    assert sum(p.numel() for p in built.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert built.config.tokens_per_image == tokens
    assert name in preset_names()


def test_unknown_preset_and_part_name_the_nearest(model: VilaForConditionalGeneration) -> None:
    with pytest.raises(UserError, match="did you mean 'vila-7b'"):
        load_preset("vila-7")
    with pytest.raises(UserError, match="'lm' is not a part"):
        freeze(model, ["lm"])


def test_only_the_named_parts_train(model: VilaForConditionalGeneration) -> None:
    counts = freeze(model, ["projector"])
    assert counts["vision_tower"] == counts["language_model"] == 0
    assert counts["projector"] == sum(p.numel() for p in model.projector.parameters())


def test_downsample_merges_as_the_released_projector_does() -> None:
    """A 4 x 4 grid of numbered patches: token order is transposed, members go left-right first."""
    features = torch.arange(16.0).reshape(1, 16, 1)
    assert Downsample()(features)[0].tolist() == [
        [0, 1, 4, 5],
        [8, 9, 12, 13],
        [2, 3, 6, 7],
        [10, 11, 14, 15],
    ]
    odd = Downsample()(torch.ones(1, 9, 2))
    assert odd.shape == (1, 4, 8)
    assert odd.sum() == 18  # the padding is zero


def test_every_projector_runs(model: VilaForConditionalGeneration) -> None:
    for projector in ("linear", "mlp3x_gelu", "mlp_downsample", "downsample", "transformer"):
        config = VilaConfig(**{**model.config.to_dict(), "projector": projector})
        made = VilaForConditionalGeneration(config).eval()
        features = made.image_features(torch.zeros(2, 3, 32, 32))
        assert features.shape == (2, config.tokens_per_image, 64)
    with pytest.raises(ValueError, match="projector 'mlp' is not one of"):
        VilaConfig(projector="mlp")


class _Words:
    def convert_tokens_to_ids(self, token: str) -> int:
        return 128


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_images_become_normalised_squares(fit: str) -> None:
    processor = VilaProcessor(
        _Words(),  # type: ignore[arg-type]
        image_size=8,
        tokens_per_image=4,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        fit=fit,  # type: ignore[arg-type]
    )
    pixels = processor.image_transform(Image.new("RGB", (16, 8), (255, 255, 255)))
    assert pixels.shape == (3, 8, 8)
    assert pixels.max() == pytest.approx(2.0)
    border = pixels[:, 0].abs().max()
    assert (border < 0.1) == (fit == "pad")  # the padding has the mean colour: zero


def test_beams_and_several_answers_keep_each_samples_images(
    model: VilaForConditionalGeneration,
) -> None:
    """Against `inputs_embeds`, where the images are in place before anything is repeated."""
    ids = torch.tensor([sample(model, 2, 4, 0), sample(model, 2, 4, 1)])
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    settings |= {"attention_mask": mask, "num_beams": 3, "num_return_sequences": 3}
    with torch.no_grad():
        embedded = model.embed(ids, pixels)
    swapped = model.generate(input_ids=ids, pixel_values=pixels[[1, 0, 3, 2]], **settings)
    found = model.generate(input_ids=ids, pixel_values=pixels, **settings)[:, -6:]
    assert torch.equal(found, model.generate(inputs_embeds=embedded, **settings)[:, -6:])
    assert not torch.equal(found, swapped[:, -6:])
