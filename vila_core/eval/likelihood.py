"""Likelihoods of continuations: what they share is computed once, each goes on from the cache.

Shape letters: B prompts of a batch, R continuations of all of them, T tokens, V words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch

from vila_core.eval.batches import Padded, right_padded


class Scored(NamedTuple):
    """A continuation: its log-likelihood, its tokens' number, whether greedy decoding says it."""

    nats: float
    tokens: int
    greedy: bool


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all rows start with."""
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return sum(1 for _ in alike)


@torch.inference_mode()
def continue_from(
    model: Any,
    heads: Padded,
    shown: Mapping[str, torch.Tensor],
    tails: Sequence[Sequence[Sequence[int]]],
) -> list[list[Scored]]:
    """Return the score of every continuation in `tails` of every prompt in `heads`.

    `shown` holds the prompts' images as the model's arguments. A prompt's images and tokens go
    through the model once. Where all continuations are single
    tokens, the options' letters for example, that pass alone gives their scores.
    """
    device = heads.tokens_BT.device
    owner = [b for b, its in enumerate(tails) for _ in its]
    rows = [list(tail) for its in tails for tail in its]
    if not rows:
        return [[] for _ in tails]
    out = model(
        input_ids=heads.tokens_BT,
        attention_mask=heads.mask_BT,
        position_ids=heads.positions_BT,
        use_cache=True,
        logits_to_keep=1,
        **shown,
    )
    owner_R = torch.tensor(owner, device=device)
    targets_RT = right_padded(rows, 0, device)
    real_RT = right_padded([[1] * len(row) for row in rows], 0, device)
    logits_RTV = out.logits[:, -1:][owner_R]
    scores = [_scores(logits_RTV, targets_RT[:, :1])]
    if targets_RT.shape[1] > 1:
        cache = out.past_key_values
        cache.reorder_cache(owner_R)
        # The last token of a continuation is only predicted, never read.
        steps_T = torch.arange(1, targets_RT.shape[1], device=device)
        rest = model(
            input_ids=targets_RT[:, :-1],
            attention_mask=torch.cat([heads.mask_BT[owner_R], real_RT[:, :-1]], dim=1),
            position_ids=heads.positions_BT[owner_R, -1:] + steps_T,
            past_key_values=cache,
            use_cache=True,
        )
        scores.append(_scores(rest.logits, targets_RT[:, 1:]))
    nats_RT = torch.cat([nats for nats, _ in scores], dim=1).masked_fill(real_RT == 0, 0.0)
    greedy_R = (torch.cat([top for _, top in scores], dim=1) | (real_RT == 0)).all(1)
    found: list[list[Scored]] = [[] for _ in tails]
    for b, row, nats, greedy in zip(
        owner, rows, nats_RT.double().sum(1).tolist(), greedy_R.tolist(), strict=True
    ):
        found[b].append(Scored(nats, len(row), greedy))
    return found


def _scores(
    logits_RTV: torch.Tensor, targets_RT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the targets' log-probabilities, and where they are the most likely: (R, T) each."""
    nats_RTV = logits_RTV.float().log_softmax(-1)
    nats_RT = nats_RTV.gather(-1, targets_RT[..., None])[..., 0]
    return nats_RT, logits_RTV.argmax(-1) == targets_RT
