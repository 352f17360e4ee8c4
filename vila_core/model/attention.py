"""Attention over packed samples: causal within a sample, nothing across samples.

Registered with transformers as the attention implementation `vila_packed`. Samples of a pack are
gathered into right-padded rows, where plain causal attention needs no mask: all padding stands
after every real query. That is exact, needs no T x T mask, and gradients between samples are zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "vila_packed"


class PackLayout:
    """Where each sample of a pack stands, prepared once and shared by all layers.

    `rows` are (R, L) index tensors into the pack, right-padded by repeating the last token, one per
    bucket of similar lengths, so that short samples are not padded to the longest one.
    """

    def __init__(self, cu_seqlens: torch.Tensor) -> None:
        starts = cu_seqlens[:-1].to(torch.int64)
        lengths = cu_seqlens[1:].to(torch.int64) - starts
        buckets = torch.ceil(torch.log2(lengths.clamp(min=1).double())).to(torch.int64)
        order: list[torch.Tensor] = []
        self.rows: list[tuple[torch.Tensor, torch.Tensor]] = []
        for bucket in torch.unique(buckets).tolist():
            members = torch.nonzero(buckets == bucket).flatten()
            start_R, length_R = starts[members], lengths[members]
            offset_L = torch.arange(int(length_R.max()), device=cu_seqlens.device)
            index_RL = start_R[:, None] + torch.minimum(offset_L[None, :], length_R[:, None] - 1)
            real_RL = offset_L[None, :] < length_R[:, None]
            self.rows.append((index_RL, real_RL))
            order.append(index_RL[real_RL])
        # The bucket-wise outputs, laid end to end, are a permutation of the pack; this undoes it.
        self.undo = torch.argsort(torch.cat(order))


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack_layout: PackLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within the samples of a pack; without a layout, behave as transformers' sdpa.

    Shapes: query (1, H, T, D), key and value (1, K, T, D) with K <= H heads; returns (1, T, H, D).
    """
    if pack_layout is None:
        return sdpa_attention_forward(  # type: ignore[return-value]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    outputs = []
    for index_RL, real_RL in pack_layout.rows:
        row_q, row_k, row_v = (
            tensor[0][:, index_RL].transpose(0, 1) for tensor in (query, key, value)
        )
        out_RHLD = F.scaled_dot_product_attention(
            row_q,
            row_k,
            row_v,
            is_causal=True,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(out_RHLD.transpose(1, 2)[real_RL])
    out_THD = torch.cat(outputs)[pack_layout.undo]
    return out_THD[None], None


def no_mask(device: torch.device) -> torch.Tensor:
    """Return a 4-D stand-in that keeps transformers from building a T x T mask for a pack."""
    return torch.ones(1, 1, 1, 1, device=device)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # padding and KV cache: outside of packs
