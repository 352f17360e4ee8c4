"""Our RMSNorm against transformers', values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from vila_core.model import build_preset, load_preset
from vila_core.model.norm import PLAIN_NORMS, RMSNorm, fuse_norms


@pytest.mark.parametrize("shape", [(5, 24), (2, 7, 24), (1, 3, 4, 24)])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("x",)])
def test_values_and_gradients_are_those_of_transformers(
    shape: tuple[int, ...], frozen: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    theirs = LlamaRMSNorm(24, eps=1e-5)
    theirs.weight.data.uniform_(0.5, 2)
    theirs.weight.requires_grad_("weight" not in frozen)
    ours = copy.deepcopy(theirs)
    fuse_norms(ours)
    assert type(ours) is RMSNorm
    x = torch.randn(shape, requires_grad="x" not in frozen)
    one, other = ours(x), theirs(x)
    assert torch.equal(one, other)
    towards = torch.randn(shape)
    inputs = [x] * x.requires_grad
    mine = torch.autograd.grad(one, inputs + [ours.weight] * (frozen != ("weight",)), towards)
    expected = torch.autograd.grad(
        other, inputs + [theirs.weight] * (frozen != ("weight",)), towards
    )
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_half_precision_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    theirs = LlamaRMSNorm(24).bfloat16()
    ours = copy.deepcopy(theirs)
    fuse_norms(ours)
    x = torch.randn(9, 24).bfloat16()
    assert torch.equal(ours(x), theirs(x))
    assert repr(ours) == repr(theirs).replace("Llama", "")


def test_every_norm_of_the_language_model_is_one_under_its_old_name() -> None:
    with torch.device("meta"):
        model = build_preset(load_preset("miniature"))
    assert not [m for m in model.modules() if type(m).__name__ in PLAIN_NORMS]
    assert isinstance(model.language_model.model.norm, RMSNorm)
    assert "language_model.model.norm.weight" in model.state_dict()
