"""Causal attention on CPU by blocks of queries, with its own backward pass.

torch's CPU kernel computes the scores again when it goes backward, and is far from the speed of a
matrix product. Here each block of queries meets the keys up to its end in one batched product, and
the probabilities are kept for the backward pass. At 450 tokens, forward and backward together take
1.6 times less time in fp32 and 3 times less in bf16.

Shape letters: N sequences times heads, L tokens, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch

LONGEST = 1024
"""Longer sequences are left to torch: the probabilities that are kept grow with L squared."""
BLOCK = 128


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend to oneself and what came before: three (N, L, D) -> (N, L, D).

    `scale` multiplies the scores before the softmax. Keeps N * L * (L + 128) / 2 probabilities for
    the backward pass, which can run only once.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):  # positions are applied in fp32: torch's own casts too
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return _Causal.apply(query, key, value, scale)  # type: ignore[return-value]


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        query = query * scale
        length = query.shape[1]
        out, kept = torch.empty_like(query), []
        future = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=query.device).triu_(1)
        for start in range(0, length, BLOCK):
            end = min(length, start + BLOCK)
            scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2))
            rows = end - start
            scores[:, :, start:].masked_fill_(future[:rows, :rows], -torch.inf)
            weights = torch.softmax(scores, -1)
            out[:, start:end] = torch.bmm(weights, value[:, :end])
            kept.append(weights)
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *kept = ctx.saved_tensors
        length = query.shape[1]
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for weights, start in zip(kept, range(0, length, BLOCK), strict=True):
            end = min(length, start + BLOCK)
            grad_rows = grad[:, start:end]
            grad_value[:, :end].baddbmm_(weights.transpose(1, 2), grad_rows)
            scores = torch.bmm(grad_rows, value[:, :end].transpose(1, 2))
            # Not by the sum of grad * out: so a first token, which sees itself alone, gets 0.
            scores = torch.ops.aten._softmax_backward_data(scores, weights, -1, weights.dtype)
            grad_query[:, start:end] = torch.bmm(scores, key[:, :end])
            grad_key[:, :end].baddbmm_(scores.transpose(1, 2), query[:, start:end])
        return grad_query.mul_(ctx.scale), grad_key, grad_value, None
