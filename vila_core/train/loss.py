"""Losses, as sums over supervised tokens: the loop divides by their number over the whole step."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from vila_core.types import Batch

IGNORED = -100  # the label of a token that is not supervised


def next_token_loss(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor, weights_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the cross-entropy of each supervised token given those before it, summed, in fp32.

    The label at t is predicted by the logits at t - 1. `weights_BT`, where given, multiplies each
    label's term. Labels of `IGNORED` (-100) count nothing; no supervised label gives an exact zero.
    Shapes: B sequences, T tokens, V words.
    """
    targets = labels_BT[:, 1:]
    chosen = targets != IGNORED
    # Rows are taken before the cast: most tokens of a pack are not supervised, and fp32 copies of
    # their logits would be the largest tensors of the step.
    logits_NV = logits_BTV[:, :-1][chosen].float()
    if weights_BT is None:
        return F.cross_entropy(logits_NV, targets[chosen], reduction="sum")
    losses_N = F.cross_entropy(logits_NV, targets[chosen], reduction="none")
    return (losses_N * weights_BT[:, 1:][chosen].float()).sum()


def vila_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the summed next-token loss of one pack (1, T) through the visual language model.

    The language model's head is applied only where the next token is supervised: image tokens and
    prompts are most of a pack, and their logits would be thrown away.
    """
    tensors = dict(batch.tensors)
    labels_T = tensors.pop("labels")[0]
    weights = tensors.pop("loss_weights", None)
    (places_N,) = torch.nonzero(labels_T[1:] != IGNORED, as_tuple=True)
    return model(
        **tensors,
        logits_to_keep=places_N,
        targets=labels_T[1:][places_N],
        target_weights=None if weights is None else weights[0, 1:][places_N],
        use_cache=False,
    ).loss
