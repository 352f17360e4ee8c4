"""Packed samples compute what they compute alone, and never see each other."""

from __future__ import annotations

import pytest
import torch

from tests.model.conftest import sample
from vila_core.model import VilaForConditionalGeneration
from vila_core.train.flops import FlopCounter

SHAPES = [(1, 5), (0, 12), (3, 30), (2, 7), (0, 1), (1, 60)]  # images, words


def pack(samples: list[list[int]]) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([0] + [len(one) for one in samples])
    return {
        "input_ids": torch.tensor([[token for one in samples for token in one]]),
        "position_ids": torch.cat([torch.arange(len(one)) for one in samples])[None],
        "cu_seqlens": lengths.cumsum(0).int(),
    }


def test_packed_logits_equal_separate_ones(model: VilaForConditionalGeneration) -> None:
    samples = [sample(model, images, words, seed) for seed, (images, words) in enumerate(SHAPES)]
    pixels = torch.randn(sum(images for images, _ in SHAPES), 3, 32, 32)
    packed = model(**pack(samples), pixel_values=pixels).logits[0]
    used = start = 0
    for ids, (images, _) in zip(samples, SHAPES, strict=True):
        its_pixels = pixels[used : used + images] if images else None
        alone = model(
            input_ids=torch.tensor([ids]), pixel_values=its_pixels, use_cache=False
        ).logits[0]
        torch.testing.assert_close(packed[start : start + len(ids)], alone, atol=2e-5, rtol=0)
        used, start = used + images, start + len(ids)


def test_gradient_between_packed_samples_is_exactly_zero(
    model: VilaForConditionalGeneration,
) -> None:
    samples = [sample(model, images, words, seed) for seed, (images, words) in enumerate(SHAPES)]
    pixels = torch.randn(sum(images for images, _ in SHAPES), 3, 32, 32)
    packed = pack(samples)
    embeds = model.embed(packed.pop("input_ids"), pixels).detach().requires_grad_()
    logits = model(inputs_embeds=embeds, **packed).logits[0]
    bounds = packed["cu_seqlens"].tolist()
    start, end = bounds[2], bounds[3]
    (gradient,) = torch.autograd.grad(logits[start:end].square().sum(), embeds)
    outside = torch.cat([gradient[0, :start], gradient[0, end:]])
    assert outside.count_nonzero() == 0
    assert gradient[0, start:end].abs().sum() > 0


def test_logits_only_where_asked(model: VilaForConditionalGeneration) -> None:
    packed = pack([sample(model, 0, 9, 1), sample(model, 0, 4, 2)])
    chosen = torch.tensor([2, 7, 12])
    everything = model(**packed).logits
    some = model(**packed, logits_to_keep=chosen).logits
    torch.testing.assert_close(some, everything[:, chosen])


def test_text_only_pack_gives_the_vision_path_a_zero_gradient(
    model: VilaForConditionalGeneration,
) -> None:
    """Every rank takes part in the projector's collectives, whatever its pack holds."""
    model.train()
    model.vision_tower.requires_grad_(False)
    packed = pack([sample(model, 0, 9, 1)])
    with_path = model(**packed).logits
    with_path.square().sum().backward()
    for parameter in model.projector.parameters():
        assert parameter.grad is not None
        assert parameter.grad.count_nonzero() == 0
    torch.testing.assert_close(with_path, model.eval()(**packed).logits)


def test_a_pack_refuses_a_mask_and_a_cache(model: VilaForConditionalGeneration) -> None:
    packed = pack([sample(model, 0, 9, 1)])
    with pytest.raises(ValueError, match="neither"):
        model(**packed, attention_mask=torch.ones(1, 9))


def test_flops_of_a_pack_are_those_of_its_samples(model: VilaForConditionalGeneration) -> None:
    """Whatever the kernel computes on the side: padding, or pairs that a mask takes away."""
    samples = [[1, 5, 9, 2], [1, 7, 2], list(range(3, 20)), [4] * 140]
    with FlopCounter() as packed:
        model(**pack(samples), use_cache=False)
    alone = 0.0
    for ids in samples:
        with FlopCounter() as counter:
            model(torch.tensor([ids]), use_cache=False)
        alone += counter.flops
    assert packed.flops == pytest.approx(alone, rel=1e-12)
