"""Packed samples compute what they compute alone, and never see each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.conftest import sample
from vila_core.model import VilaForConditionalGeneration, freeze
from vila_core.train.flops import FlopCounter
from vila_core.train.loss import IGNORED, vila_loss
from vila_core.types import Batch

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


# The model is only read, so one for all examples is right.
SHARED = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SAMPLES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(2, 25)), min_size=2, max_size=6
)  # images, words


@given(SAMPLES, st.integers(0, 5))
@SHARED
def test_no_loss_of_a_packed_sample_reaches_another(
    model: VilaForConditionalGeneration, shapes: list[tuple[int, int]], chosen: int
) -> None:
    """Exactly zero, for embeddings and for pixels, of whatever stands before or behind."""
    chosen %= len(shapes)
    samples = [sample(model, images, words, seed) for seed, (images, words) in enumerate(shapes)]
    pixels = torch.randn(sum(images for images, _ in shapes), 3, 32, 32).requires_grad_()
    packed = pack(samples)
    ids = packed.pop("input_ids")
    embeds = model.embed(ids, pixels if len(pixels) else None)
    if not embeds.requires_grad:
        embeds = embeds.detach().requires_grad_()
    embeds.retain_grad()
    logits = model(inputs_embeds=embeds, **packed).logits[0]
    start, end = packed["cu_seqlens"].tolist()[chosen : chosen + 2]
    loss = torch.nn.functional.cross_entropy(logits[start : end - 1], ids[0, start + 1 : end] % 7)
    loss.backward()
    assert embeds.grad is not None
    inside = torch.zeros(ids.shape[1], dtype=torch.bool)
    inside[start:end] = True
    assert embeds.grad[0, ~inside].count_nonzero() == 0
    assert embeds.grad[0, inside].count_nonzero() > 0
    if pixels.grad is not None:
        first = sum(images for images, _ in shapes[:chosen])
        own = torch.zeros(len(pixels), dtype=torch.bool)
        own[first : first + shapes[chosen][0]] = True
        assert pixels.grad[~own].count_nonzero() == 0
        assert not own.any() or pixels.grad[own].count_nonzero() > 0
    model.zero_grad()


@given(SAMPLES)
@SHARED
def test_the_loss_of_a_pack_is_that_of_its_samples_alone(
    model: VilaForConditionalGeneration, shapes: list[tuple[int, int]]
) -> None:
    """And so are the gradients of all parameters."""
    samples = [sample(model, images, words, seed) for seed, (images, words) in enumerate(shapes)]
    pixels = torch.randn(sum(images for images, _ in shapes), 3, 32, 32)

    def batch(some: list[list[int]], its_pixels: torch.Tensor) -> Batch:
        tensors = pack(some) | {"pixel_values": its_pixels}
        labels = tensors["input_ids"].clone()
        labels[labels == model.config.image_token_id] = IGNORED
        labels[0, tensors["cu_seqlens"][:-1].long()] = IGNORED  # predicted by another sample
        tensors["labels"] = labels
        return Batch(tensors, float((labels != IGNORED).sum()), labels.shape[1])

    together = vila_loss(model, batch(samples, pixels))
    together.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    starts = [0, *itertools.accumulate(images for images, _ in shapes)]
    alone = torch.zeros(())
    for one, (first, stop) in zip(samples, itertools.pairwise(starts), strict=True):
        loss = vila_loss(model, batch([one], pixels[first:stop]))
        loss.backward()
        alone += loss.detach()
    torch.testing.assert_close(together.detach(), alone, rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        if name in expected and parameter.grad is not None:
            scale = float(expected[name].abs().max())
            torch.testing.assert_close(
                parameter.grad, expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=name
            )
    model.zero_grad()


def test_logits_only_where_asked(model: VilaForConditionalGeneration) -> None:
    packed = pack([sample(model, 0, 9, 1), sample(model, 0, 4, 2)])
    chosen = torch.tensor([2, 7, 12])
    everything = model(**packed).logits
    some = model(**packed, logits_to_keep=chosen).logits
    torch.testing.assert_close(some, everything[:, chosen])


@pytest.mark.parametrize("tower_trains", [False, True])
def test_text_only_pack_gives_the_vision_path_a_zero_gradient(
    model: VilaForConditionalGeneration, tower_trains: bool
) -> None:
    """Every rank takes part in the vision path's collectives, whatever its pack holds."""
    model.train()
    model.vision_tower.requires_grad_(tower_trains)
    packed = pack([sample(model, 0, 9, 1)])
    with_path = model(**packed).logits
    with_path.square().sum().backward()
    for parameter in model.projector.parameters():
        assert parameter.grad is not None
        assert parameter.grad.count_nonzero() == 0
    in_tower = [parameter.grad for parameter in model.vision_tower.parameters()]
    found = [gradient for gradient in in_tower if gradient is not None]
    assert bool(found) == tower_trains
    assert all(gradient.count_nonzero() == 0 for gradient in found)
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


@pytest.mark.parametrize("frozen", [True, False])
def test_the_tower_runs_once_over_all_images_and_without_gradient_when_frozen(
    model: VilaForConditionalGeneration, frozen: bool
) -> None:
    freeze(model, ["projector"] if frozen else ["projector", "vision_tower"])
    seen: list[tuple[int, bool]] = []
    handle = model.vision_tower.register_forward_hook(
        lambda _, inputs, __: seen.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    samples = [sample(model, images, 3, images) for images in (1, 0, 2)]
    model(**pack(samples), pixel_values=torch.randn(3, 3, 32, 32))
    handle.remove()
    assert seen == [(3, not frozen)]
