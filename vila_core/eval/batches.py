"""Batches of token rows: put together by length, and padded on the left.

Shape letters: B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch


class Padded(NamedTuple):
    """Rows that end together: tokens, mask (0 on padding) and positions, (B, T) each."""

    tokens_BT: torch.Tensor
    mask_BT: torch.Tensor
    positions_BT: torch.Tensor


def by_length(sizes: Sequence[tuple[int, int]], most: int, tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of prompts in batches, shortest first: a batch is padded to its last one.

    `sizes` holds each prompt's (rows, tokens per row). A batch has at most `most` prompts and
    `tokens` tokens, padding included; a prompt that is larger is a batch of its own.
    """
    batch: list[int] = []
    rows = 0
    for n in sorted(range(len(sizes)), key=lambda n: (sizes[n][1], n)):
        its_rows, length = sizes[n]
        if batch and (len(batch) == most or (rows + its_rows) * length > tokens):
            yield batch
            batch, rows = [], 0
        batch.append(n)
        rows += its_rows
    if batch:
        yield batch


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Padded:
    """Return rows of tokens padded on the left; positions count from each row's first token."""
    longest = max(map(len, rows))
    tokens_BT = torch.tensor([[pad] * (longest - len(row)) + [*row] for row in rows], device=device)
    mask_BT = torch.tensor(
        [[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device
    )
    return Padded(tokens_BT, mask_BT, (mask_BT.cumsum(1) - 1).clamp(min=0))


def right_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> torch.Tensor:
    """Return rows of tokens padded on the right, (B, T)."""
    longest = max(map(len, rows))
    return torch.tensor([[*row] + [pad] * (longest - len(row)) for row in rows], device=device)
