"""Causal attention of a whole pack on CPU by blocks of queries, with its own backward pass.

torch's CPU kernel computes the scores again when it goes backward, and is far from the speed of a
matrix product. Here each block of queries meets the keys up to its end in one product, and the
probabilities are kept for the backward pass. The pack is one step of autograd: sample by sample,
each gradient would be spread over the length of the pack and added up.

Shape letters: T tokens of the pack, H heads, D width of a head, N sequences times heads, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

LONGEST = 1024
"""Longer sequences are left to torch: the probabilities that are kept grow with L squared."""
BLOCK = 128


@dataclass(frozen=True)
class Rows:
    """Samples of similar length as one (R, L) batch, padded at their ends."""

    gather: torch.Tensor  # (R * L,) positions in the pack
    real: torch.Tensor  # positions among R * L: what isn't only padding
    places: torch.Tensor  # the positions in the pack of `real`
    shape: tuple[int, int]


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pieces: Sequence[tuple[int, int] | Rows],
    scale: float,
) -> torch.Tensor:
    """Attend to oneself and what came before in the same sample: three (T, H, D) -> (T, H, D).

    `pieces` cover the pack: samples by start and end, or several short ones as `Rows`. `scale`
    multiplies the scores before the softmax. Keeps about H * L * (L + 128) / 2 probabilities of
    each sample for the backward pass.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):  # positions are applied in fp32: torch's own casts too
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return _Causal.apply(query, key, value, pieces, scale)  # type: ignore[return-value]


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pieces: Sequence[tuple[int, int] | Rows],
        scale: float,
    ) -> torch.Tensor:
        query = query * scale
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)  # token by token
        kept: list[torch.Tensor] = []
        for piece in pieces:
            q, k, v = (_take(tensor, piece) for tensor in (query, key, value))
            found = _room(out, piece, q)
            kept += _forward(q, k, v, found)
            _put(out, piece, found)
        ctx.pieces, ctx.scale = pieces, scale
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *kept = ctx.saved_tensors
        wanted = [torch.empty_like(out) for out in (query, key, value)]
        at = 0
        for piece in ctx.pieces:
            q, k, v = (_take(tensor, piece) for tensor in (query, key, value))
            towards = _take(grad, piece, padding=False)
            found = [_room(whole, piece, q) for whole in wanted]
            blocks = -(-q.shape[1] // BLOCK)
            _backward(q, k, v, towards, *found, kept=kept[at : at + blocks])
            at += blocks
            for whole, part in zip(wanted, found, strict=True):
                _put(whole, piece, part)
        return wanted[0].mul_(ctx.scale), wanted[1], wanted[2], None, None


def _take(
    tensor_THD: torch.Tensor, piece: tuple[int, int] | Rows, *, padding: bool = True
) -> torch.Tensor:
    """Return a piece (N, L, D). Without `padding`, zeros stand in its place."""
    if not isinstance(piece, Rows):
        return tensor_THD[piece[0] : piece[1]].transpose(0, 1)
    if padding:  # repeats the sample's last token
        flat = tensor_THD.index_select(0, piece.gather)
    else:
        flat = tensor_THD.new_zeros((len(piece.gather), *tensor_THD.shape[1:]))
        flat.index_copy_(0, piece.real, tensor_THD.index_select(0, piece.places))
    return flat.unflatten(0, piece.shape).transpose(1, 2).flatten(0, 1)


def _room(
    whole_THD: torch.Tensor, piece: tuple[int, int] | Rows, like_NLD: torch.Tensor
) -> torch.Tensor:
    """Return where to write a piece (N, L, D): the whole's own memory, but for rows."""
    return torch.empty_like(like_NLD) if isinstance(piece, Rows) else _take(whole_THD, piece)


def _put(whole_THD: torch.Tensor, piece: tuple[int, int] | Rows, part_NLD: torch.Tensor) -> None:
    """Write a piece that has a memory of its own to its places."""
    if isinstance(piece, Rows):
        flat = part_NLD.unflatten(0, (piece.shape[0], -1)).transpose(1, 2).flatten(0, 1)
        whole_THD.index_copy_(0, piece.places, flat.index_select(0, piece.real))


def _forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, out: torch.Tensor
) -> list[torch.Tensor]:
    """Fill `out`; return the probabilities by block of queries."""
    length = query.shape[1]
    future = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=query.device).triu_(1)
    kept = []
    for start in range(0, length, BLOCK):
        end = min(length, start + BLOCK)
        rows = end - start
        scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2))
        scores[:, :, start:].masked_fill_(future[:rows, :rows], -torch.inf)
        weights = torch.softmax(scores, -1)
        out[:, start:end] = torch.bmm(weights, value[:, :end])
        kept.append(weights)
    return kept


def _backward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    grad: torch.Tensor,
    grad_query: torch.Tensor,
    grad_key: torch.Tensor,
    grad_value: torch.Tensor,
    *,
    kept: Sequence[torch.Tensor],
) -> None:
    """Fill the gradients."""
    length = query.shape[1]
    # From the last block on, which sees all keys: it fills what the others add to.
    for start, weights in reversed(list(zip(range(0, length, BLOCK), kept, strict=True))):
        end = min(length, start + BLOCK)
        towards = grad[:, start:end]
        scores = torch.bmm(towards, value[:, :end].transpose(1, 2))
        # Not by the sum of grad * out: so a first token, which sees itself alone, gets 0.
        scores = torch.ops.aten._softmax_backward_data(scores, weights, -1, weights.dtype)
        grad_query[:, start:end] = torch.bmm(scores, key[:, :end])
        of_key = torch.bmm(scores.transpose(1, 2), query[:, start:end])
        of_value = torch.bmm(weights.transpose(1, 2), towards)
        if end == length:
            grad_key.copy_(of_key)
            grad_value.copy_(of_value)
        else:
            grad_key[:, :end] += of_key
            grad_value[:, :end] += of_value
