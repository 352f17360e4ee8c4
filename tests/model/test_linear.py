"""Linear layers through oneDNN against torch's, values and gradients."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vila_core.model import build_preset, linear, load_preset
from vila_core.train.flops import FlopCounter

NEEDS = pytest.mark.skipif(not linear.AVAILABLE, reason="needs a CPU with AVX-512 and oneDNN")


def made(*shape: int, wanted: bool = True) -> torch.Tensor:
    return torch.randn(shape, requires_grad=wanted)


@NEEDS
@pytest.mark.parametrize("shape", [(1, 24), (300, 24), (2, 70, 24)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("width", [16, 40])
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], biased: bool, width: int) -> None:
    torch.manual_seed(0)
    x, weight = made(*shape), made(width, 24)
    wanted = [x, weight, *([made(width)] if biased else [])]
    bias = wanted[2] if biased else None
    assert linear.fits(x, weight)
    ours, theirs = linear.linear(x, weight, bias), F.linear(x, weight, bias)
    assert "_Linear" in str(ours.grad_fn)
    torch.testing.assert_close(ours, theirs)
    # As an attention leaves it: not laid out row by row.
    grad = torch.randn(theirs.shape[::-1]).permute(*range(theirs.dim())[::-1])
    mine, other = (torch.autograd.grad(out, wanted, grad) for out in (ours, theirs))
    for one, another in zip(mine, other, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-5)


@NEEDS
def test_a_row_does_not_depend_on_how_many_others_there_are() -> None:
    torch.manual_seed(0)
    x, weight = made(500, 256), made(64, 256)
    whole = linear.linear(x, weight)
    for rows in (2, 4, 7, 33, 499):
        assert torch.equal(linear.linear(x[:rows], weight), whole[:rows])


@NEEDS
def test_operands_that_are_cut_out_of_others_are_multiplied_as_fast() -> None:
    """oneDNN has no fast code for them: thousands of times slower, where they aren't copied."""
    wide, weight = torch.randn(430, 256), torch.randn(430, 64)
    x, cut = torch.randn(128, 64), wide[:, 64:128]
    torch.testing.assert_close(linear.product(x, cut), x @ cut.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        linear.product_of_columns(weight, cut), weight.T @ cut, rtol=1e-4, atol=1e-4
    )

    def seconds(operand: torch.Tensor) -> float:
        start = time.process_time()
        linear.product(x, operand)
        return time.process_time() - start

    assert min(seconds(cut) for _ in range(5)) < 50 * min(seconds(weight) for _ in range(5))


@NEEDS
def test_what_needs_no_gradient_is_not_kept() -> None:
    frozen, trained = made(8, 16, wanted=False), made(8, 16)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = made(20, 16)
        linear.linear(x, frozen)
        assert [t.data_ptr() for t in kept] == [frozen.data_ptr()]
        kept.clear()
        linear.linear(x.detach(), trained)
        assert [t.data_ptr() for t in kept] == [x.data_ptr()]


def test_other_dtypes_autocast_and_a_switch_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weight = made(20, 16), made(8, 16)
    assert not linear.fits(x.double(), weight.double())
    assert not linear.fits(x.bfloat16(), weight.bfloat16())
    assert not linear.fits(x[:3], weight, fewest=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not linear.fits(x, weight)
        assert linear.linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not linear.fits(x, weight)


def test_flops_are_counted_once() -> None:
    x, weight = made(20, 16), made(8, 16)
    with FlopCounter() as ours:
        linear.linear(x, weight)
    with FlopCounter() as theirs:
        F.linear(x, weight)
    assert ours.flops == theirs.flops == 3 * 2 * 20 * 16 * 8


def test_every_linear_layer_of_the_model_is_one_under_its_old_name() -> None:
    with torch.device("meta"):
        model = build_preset(load_preset("miniature"))
    plain = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert not plain
    assert isinstance(model.language_model.model.layers[0].mlp.up_proj, linear.Linear)
    assert "language_model.model.layers.0.mlp.up_proj.weight" in model.state_dict()
