"""Attention over packed samples: causal within a sample, nothing across samples.

Registered with transformers as the attention implementation `vila_packed`. Short samples of a pack
are gathered into right-padded rows, where plain causal attention needs no mask: all padding stands
after every real query. That is exact, needs no T x T mask, and gradients between samples are zero.
Long samples are attended one by one, without a copy. On CUDA in half precision the whole pack is
one call of torch's variable-length flash attention.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vila_core.model import causal

NAME = "vila_packed"
SPECIAL = ("softcap", "s_aux", "position_bias")
"""Arguments of attention that is not plain softmax: soft caps, sinks, position biases."""
LONG = 128
"""From this length on a sample is worth an attention call of its own (measured on CPU)."""


class PackLayout:
    """Where each sample of a pack stands, prepared once and shared by all layers.

    `cu_seqlens` (S + 1,) holds where each of S samples starts in the pack of T tokens, and T.
    Raises ValueError unless it rises from 0 to `num_tokens`.
    """

    def __init__(self, cu_seqlens: torch.Tensor, num_tokens: int) -> None:
        bounds = cu_seqlens.tolist()
        lengths = [end - start for start, end in pairwise(bounds)]
        if not lengths or bounds[0] != 0 or bounds[-1] != num_tokens or min(lengths) < 1:
            raise ValueError(f"cu_seqlens {bounds} does not rise from 0 to {num_tokens} tokens")
        self.cu_seqlens = cu_seqlens.to(torch.int32)
        self._lengths = lengths
        self.longest = max(lengths)
        self.uses = 0
        """Attention layers that kept to this layout, so that a model can't ignore it unseen."""
        device = cu_seqlens.device
        self.spans = [
            (start, start + length)
            for start, length in zip(bounds, lengths, strict=False)
            if length >= LONG
        ]
        order = [torch.arange(start, end, device=device) for start, end in self.spans]
        self.rows: list[causal.Rows] = []
        buckets: dict[int, list[tuple[int, int]]] = {}
        for start, length in zip(bounds, lengths, strict=False):
            if length < LONG:
                buckets.setdefault(length.bit_length(), []).append((start, length))
        for _, members in sorted(buckets.items()):
            start_R, length_R = torch.tensor(members, device=device).unbind(1)
            offset_L = torch.arange(max(length for _, length in members), device=device)
            # Padding repeats the sample's last token: no position outside of the sample is read.
            index_RL = start_R[:, None] + torch.minimum(offset_L[None], length_R[:, None] - 1)
            (real,) = torch.nonzero((offset_L[None] < length_R[:, None]).flatten(), as_tuple=True)
            gather, shape = index_RL.flatten(), (len(members), len(offset_L))
            self.rows.append(causal.Rows(gather, real, gather[real], shape))
            order.append(gather[real])
        # The outputs, laid end to end, are a permutation of the pack; this undoes it.
        self.undo = torch.argsort(torch.cat(order))
        self._bands: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def position_ids(self) -> torch.Tensor:
        """Positions (1, T) that restart at 0 with each sample."""
        device = self.cu_seqlens.device
        return torch.cat([torch.arange(n, device=device) for n in self._lengths])[None]

    def pairs(self, window: int | None) -> float:
        """Return how many pairs of tokens attend: half of each sample's square, or its window."""
        total = sum(length * length / 2 for length in self._lengths)
        if window is not None:  # the square less the triangle that is out of reach
            total -= sum(max(0, length - window) ** 2 / 2 for length in self._lengths)
        return total

    def band(self, length: int, window: int | None) -> torch.Tensor | None:
        """Return the (L, L) mask of a sliding window, or None where plain causal is the same."""
        if window is None or length <= window:
            return None
        if (length, window) not in self._bands:
            at_L = torch.arange(length, device=self.cu_seqlens.device)
            behind_LL = at_L[:, None] - at_L[None, :]
            self._bands[length, window] = (behind_LL >= 0) & (behind_LL < window)
        return self._bands[length, window]


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    pack_layout: PackLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within the samples of a pack; without a layout, behave as transformers' sdpa.

    Shapes: query (1, H, T, D), key and value (1, K, T, D) with K <= H heads; returns (1, T, H, D).
    Raises ValueError for the arguments of `SPECIAL`.
    """
    special = [name for name in SPECIAL if kwargs.get(name) is not None]
    if special:
        raise ValueError(f"{type(module).__name__} needs {special[0]}, which packs don't support")
    if pack_layout is None:
        return sdpa_attention_forward(  # type: ignore[return-value]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if has_torch_function((query,)):  # inside the counter of FLOPs: it takes `model_flops`
        return handle_torch_function(
            packed_attention, (query,), module, query, key, value, attention_mask,
            scaling=scaling, dropout=dropout, sliding_window=sliding_window,
            pack_layout=pack_layout, **kwargs,
        )  # fmt: skip
    pack_layout.uses += 1
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        return _varlen(query, key, value, scaling, sliding_window, pack_layout), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # CPU kernels have no fast path for shared heads
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))

    by_token = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (T, H, D)
    # Without gradients torch's kernel is as fast and keeps nothing.
    fast = query.device.type == "cpu" and torch.is_grad_enabled() and not dropout
    if fast and pack_layout.longest <= min(causal.LONGEST, sliding_window or causal.LONGEST):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        pieces = [*pack_layout.spans, *pack_layout.rows]
        q_THD, k_THD, v_THD = by_token
        return causal.causal_attention(q_THD, k_THD, v_THD, pieces, scale)[None], None

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Causal attention of samples from their first token on: (R, H, L, D) -> (R, L, H, D)."""
        band = pack_layout.band(q.shape[2], sliding_window)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=band, is_causal=band is None, dropout_p=dropout, scale=scaling
        )
        return out.transpose(1, 2)

    outputs = [
        attend(*(tensor[:, :, start:end] for tensor in (query, key, value)))[0]
        for start, end in pack_layout.spans
    ]
    for rows in pack_layout.rows:
        out_RLHD = attend(
            *(
                tensor.index_select(0, rows.gather).unflatten(0, rows.shape).transpose(1, 2)
                for tensor in by_token
            )
        )
        outputs.append(out_RLHD.flatten(0, 1).index_select(0, rows.real))
    return torch.cat(outputs).index_select(0, pack_layout.undo)[None], None


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    layout: PackLayout,
) -> torch.Tensor:
    """Attend to the whole pack in one call of flash attention (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    query_THD, key_THD, value_THD = (
        tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)
    )
    out_THD = varlen_attn(
        query_THD,
        key_THD,
        value_THD,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.longest,
        layout.longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),  # 0 to the right: causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out_THD, torch.Tensor)
    return out_THD[None]


def _model_flops(
    _result: Any, _module: nn.Module, query: torch.Tensor, *_: Any, **settings: Any
) -> tuple[float, list[torch.Tensor]]:
    """Return the FLOPs of causal attention within the samples, and its operands.

    Two products (scores and values), each with two operands, cost their forward twice more in the
    backward pass. Padding of rows counts for nothing, a sliding window for what it leaves.
    """
    layout, window = settings["pack_layout"], settings["sliding_window"]
    return 4.0 * query.shape[1] * query.shape[3] * layout.pairs(window), [query, query]


packed_attention.model_flops = _model_flops  # type: ignore[attr-defined]


def no_mask(device: torch.device) -> torch.Tensor:
    """Return a 4-D stand-in that keeps transformers from building a T x T mask for a pack."""
    return torch.ones(1, 1, 1, 1, device=device)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # padding and KV cache: outside of packs
