"""Model FLOPs of a step and the machine's peak, for MFU.

MFU = (model FLOPs per token × tokens per second) / (peak FLOPs per second × ranks).

Model FLOPs are counted while the forward pass runs: 2 × multiply-adds of every linear layer,
convolution, matrix product and scaled-dot-product attention (causal attention: half), once for
the forward pass and once more for each of its operands that needs a gradient. A function that
computes more or less than the model asks for (attention over padded rows, or in a kernel unknown
here) says what to count in its attribute `model_flops`, and passes itself on to modes.
Recomputation (activation checkpointing), norms and element-wise work are not model FLOPs.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vila_core.model.linear import linear


class FlopCounter(TorchFunctionMode):
    """Counts model FLOPs of the torch functions called inside; results are not touched."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self._inside = False
        self._replaced: Any = None

    def __enter__(self) -> FlopCounter:
        if F.linear is not _LINEAR:
            # ZeRO-3 puts its own function in its place, which torch doesn't show to modes.
            self._replaced, F.linear = F.linear, self._count_linear
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._replaced is not None:
            F.linear = self._replaced

    def _count_linear(self, x: Any, weight: Any, bias: Any = None) -> torch.Tensor:
        self._inside = True
        try:
            result = self._replaced(x, weight, bias)
        finally:
            self._inside = False
        self._add(_product(result, x, weight))
        return result

    def _add(self, count: tuple[float, list[Any]]) -> None:
        forward, operands = count
        wanted = sum(isinstance(t, torch.Tensor) and t.requires_grad for t in operands)
        # A product of two operands costs its forward again for each operand's gradient.
        self.flops += forward * (1 + (wanted if torch.is_grad_enabled() else 0))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func) or getattr(func, "model_flops", None)
        if count is not None and not self._inside:
            self._add(count(result, *args, **(kwargs or {})))
        return result


def _product(result: torch.Tensor, a: Any, b: Any, *_: Any, **__: Any) -> tuple[float, list[Any]]:
    return 2.0 * result.numel() * a.shape[-1], [a, b]


def _add_product(
    result: torch.Tensor, _bias: Any, a: Any, b: Any, *_: Any, **__: Any
) -> tuple[float, list[Any]]:
    return 2.0 * result.numel() * a.shape[-1], [a, b]


def _convolution(
    result: torch.Tensor, x: Any, weight: Any, *_: Any, **__: Any
) -> tuple[float, list[Any]]:
    return 2.0 * result.numel() * math.prod(weight.shape[1:]), [x, weight]


def _attention(
    result: torch.Tensor, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> tuple[float, list[Any]]:
    causal = kwargs.get("is_causal", args[2] if len(args) > 2 else False)
    pairs = query.numel() * key.shape[-2] * (0.5 if causal else 1.0)
    # Two products (scores, values), each with two operands: together they cost their forward
    # twice more for the backward pass, as long as the queries need a gradient.
    return 2.0 * pairs * (1 + value.shape[-1] / query.shape[-1]), [query, query]


_LINEAR = F.linear
_COUNTS: dict[Any, Callable[..., tuple[float, list[Any]]]] = {
    _LINEAR: _product,
    torch.matmul: _product,
    torch.Tensor.matmul: _product,
    torch.Tensor.__matmul__: _product,
    torch.bmm: _product,
    torch.mm: _product,
    torch.Tensor.mm: _product,
    torch.Tensor.bmm: _product,
    torch.addmm: _add_product,
    torch.baddbmm: _add_product,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.scaled_dot_product_attention: _attention,
}

# Dense peaks from the vendor's data sheets, FLOP/s, by (part of the name, precision).
_DATA_SHEET: list[tuple[str, dict[str, float]]] = [
    ("H200", {"bf16": 989e12, "fp32": 67e12}),
    ("H100", {"bf16": 989e12, "fp32": 67e12}),
    ("A100", {"bf16": 312e12, "fp32": 19.5e12}),
]


@functools.cache
def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """Return the peak FLOP/s of one process's device, and how it is known.

    Data-sheet values for known GPUs; otherwise measured here once with a square matrix product in
    the same precision and number of threads (best of five; some tens of milliseconds).
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peaks in _DATA_SHEET:
            if part in name:
                return peaks[precision], f"data sheet of {name}, dense {precision}"
    size = 512 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.full((size, size), 0.5, device=device, dtype=dtype)  # no random numbers drawn
    best = math.inf
    for _ in range(5):
        _wait(device)
        start = time.perf_counter()
        linear(matrix, matrix)  # as the model's layers multiply
        _wait(device)
        best = min(best, time.perf_counter() - start)
    how = (
        f"measured: {size} x {size} matrix product, {precision}, {torch.get_num_threads()} threads"
    )
    return 2.0 * size**3 / best, how


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
