"""Our own operators of a training step against torch's, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from vila_core.model import head as heads
from vila_core.model.attention import PackLayout
from vila_core.model.causal import causal_attention
from vila_core.model.head import LossHead, linear_cross_entropy, loss_head
from vila_core.train.flops import FlopCounter

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
}


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def gradients(loss: torch.Tensor, of: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, of))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_loss_and_gradients_are_those_of_cross_entropy(
    weighted: bool, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(heads.CHUNK, "cpu", 20 * 37)  # 20 rows at a time: the last chunk is short
    inputs = leaves((47, 16), (37, 16), (37,))
    hidden, weight, bias = inputs
    targets = torch.randint(37, (47,))
    weights = torch.rand(47) if weighted else None
    ours = linear_cross_entropy(hidden, weight, bias if biased else None, targets, weights)
    losses = F.cross_entropy(
        F.linear(hidden, weight, bias if biased else None), targets, reduction="none"
    )
    expected = (losses if weights is None else losses * weights).sum()
    torch.testing.assert_close(ours, expected)
    wanted = inputs if biased else inputs[:2]
    for mine, other in zip(
        gradients(ours * 0.3, wanted), gradients(expected * 0.3, wanted), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_loss_under_autocast_is_near_and_its_gradients_keep_their_dtypes() -> None:
    hidden, weight = leaves((40, 16), (30, 16))
    targets = torch.randint(30, (40,))
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, None, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=0)
    for mine, other in zip(
        gradients(ours, [hidden, weight]), gradients(expected, [hidden, weight]), strict=True
    ):
        assert mine.dtype == torch.float32
        assert (mine - other).abs().max() < 0.02 * other.abs().max()


def test_nothing_supervised_is_a_loss_of_zero_with_gradients_of_zero() -> None:
    hidden, weight = leaves((0, 16), (30, 16))
    loss = linear_cross_entropy(hidden, weight, None, torch.zeros(0, dtype=torch.int64))
    assert loss.item() == 0
    assert not gradients(loss, [weight])[0].any()


def test_a_frozen_head_still_passes_the_gradient_on() -> None:
    hidden, weight = leaves((12, 16), (30, 16))
    frozen, targets = weight.detach(), torch.randint(30, (12,))
    ours = linear_cross_entropy(hidden, frozen, None, targets)
    expected = F.cross_entropy(F.linear(hidden, frozen), targets, reduction="sum")
    torch.testing.assert_close(gradients(ours, [hidden]), gradients(expected, [hidden]))


def test_the_head_of_plain_models_is_used_and_of_others_left_alone() -> None:
    plain = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, num_key_value_heads=4))
    before = plain.lm_head.weight
    found = loss_head(plain)
    assert isinstance(found, LossHead)
    assert plain.lm_head is found
    assert found.weight is before
    hidden = torch.randn(2, 3, 32)
    torch.testing.assert_close(found(hidden), nn.functional.linear(hidden, before))
    assert loss_head(AutoModelForCausalLM.from_config(GPTNeoXConfig(**SHAPE))) is None


@pytest.mark.parametrize("lengths", [[1], [7, 5, 1], [128, 9], [12, 129, 3], [300, 2, 200]])
def test_causal_attention_of_a_pack_is_torchs_of_its_samples(lengths: list[int]) -> None:
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    layout = PackLayout(bounds, sum(lengths))
    inputs = leaves(*[(sum(lengths), 6, 8)] * 3)
    ours = causal_attention(*inputs, [*layout.spans, *layout.rows], 0.4)
    expected = torch.cat(
        [
            F.scaled_dot_product_attention(
                *(part.transpose(0, 1)[None] for part in parts), is_causal=True, scale=0.4
            )[0].transpose(0, 1)
            for parts in zip(*(tensor.split(lengths) for tensor in inputs), strict=True)
        ]
    )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.manual_seed(9)
    towards = torch.randn(expected.shape)
    for mine, other in zip(
        gradients((ours * towards).sum(), inputs),
        gradients((expected * towards).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_first_token_gives_its_query_no_gradient_at_all() -> None:
    inputs = leaves(*[(2, 4, 8)] * 3)
    out = causal_attention(*inputs, [(0, 1), (1, 2)], 0.4)
    query, key, value = gradients(out.square().sum(), inputs)
    assert query.count_nonzero() == key.count_nonzero() == 0
    assert value.count_nonzero() > 0


def test_the_loss_counts_the_flops_of_its_head() -> None:
    hidden, weight = leaves((12, 16), (30, 16))
    with FlopCounter() as ours:
        linear_cross_entropy(hidden, weight, None, torch.randint(30, (12,)))
    with FlopCounter() as expected:
        F.linear(hidden, weight)
    assert ours.flops == expected.flops > 0
