"""Linear layers in fp32 on CPU by oneDNN, with their backward pass.

torch's own fp32 products are MKL's, which on AMD's CPUs with AVX-512 takes its AVX2 code: half of
the speed. oneDNN is in torch too (bf16 products are its) and takes AVX-512. Its rounding errors are
a little larger: over 4,000 rows 3 to 6e-7 of the result, where MKL's are 2 to 3e-7.

Shape letters: T rows, I inputs, O outputs.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

# oneDNN compiles a product for each shape, and packs differ in length: about half a MiB each, and
# by default it keeps the last 1,024. A pack needs some 30 (fp32) to 150 (bf16, with attention).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
FEWEST = 8
"""With fewer rows the call itself is what costs: left to torch (measured, 256 to 688 wide), but not
in training, where a sample's numbers would depend on how many others stand in its pack."""


class Linear(nn.Linear):
    """torch's linear layer, whose products go through `linear`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., I) to (..., O)."""
        return linear(input, self.weight, self.bias)


def speed_up(model: nn.Module) -> None:
    """Make every `nn.Linear` below `model` a `Linear`, in place: same parameters, same names."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


def linear(
    x: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None
) -> torch.Tensor:
    """Return x @ weight.T + bias: (..., I) to (..., O), as `F.linear` does."""
    if not fits(x, weight_OI, fewest=1 if torch.is_grad_enabled() else FEWEST):
        return F.linear(x, weight_OI, bias_O)
    if has_torch_function((x, weight_OI)):  # inside the counter of FLOPs: it takes `model_flops`
        return handle_torch_function(linear, (x, weight_OI), x, weight_OI, bias_O)
    return _Linear.apply(x, weight_OI, bias_O)  # type: ignore[return-value]


def _model_flops(
    result: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *_: Any
) -> tuple[float, list[torch.Tensor]]:
    return 2.0 * result.numel() * x.shape[-1], [x, weight]


linear.model_flops = _model_flops  # type: ignore[attr-defined]


def fits(x: torch.Tensor, weight: torch.Tensor, *, fewest: int = 1) -> bool:
    """Whether oneDNN is to compute x @ weight.T: fp32 on CPU, not fewer rows than `fewest`."""
    return (
        AVAILABLE
        and torch.backends.mkldnn.enabled
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() >= fewest * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
    )


def product(
    x_TI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None
) -> torch.Tensor:
    """Return x @ weight.T + bias by oneDNN, for operands that fit; without autograd.

    Either operand may be a transposed view: `x` is then copied first, `weight` is not.
    """
    if not (weight_OI.is_contiguous() or weight_OI.T.is_contiguous()):
        weight_OI = weight_OI.contiguous()  # otherwise oneDNN takes its slow reference code
    return torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias_O, "none", [], "")


def product_of_columns(a_TO: torch.Tensor, b_TI: torch.Tensor) -> torch.Tensor:
    """Return a.T @ b (O, I) by oneDNN, as for the gradient of a weight; without autograd."""
    if a_TO.shape[1] <= b_TI.shape[1]:  # the narrower one is copied
        return product(a_TO.T, b_TI.T)
    return product(b_TI.T, a_TO.T).T


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        wants_x, wants_weight, _ = ctx.needs_input_grad
        # As torch does it: a frozen layer keeps no input, the first trained one no weight.
        ctx.save_for_backward(x if wants_weight else None, weight_OI if wants_x else None)
        return product(x, weight_OI, bias_O)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, weight_OI = ctx.saved_tensors
        grad = grad.contiguous()
        grad_TO = grad.flatten(0, -2)
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            product(grad, weight_OI.T) if wants_x else None,
            product_of_columns(grad_TO, x.flatten(0, -2)) if wants_weight else None,
            grad_TO.sum(0) if wants_bias else None,
        )
