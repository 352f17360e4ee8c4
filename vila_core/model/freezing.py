"""Which parts a stage trains, as data (paper section 2; the tower stays frozen throughout)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vila_core.errors import UserError

if TYPE_CHECKING:
    from vila_core.model.vlm import VilaForConditionalGeneration

PARTS = ("vision_tower", "projector", "language_model")

STAGE_TRAINS: dict[str, tuple[str, ...]] = {
    "align": ("projector",),
    "pretrain": ("projector", "language_model"),
    "sft": ("projector", "language_model"),
}


def freeze(model: VilaForConditionalGeneration, trains: Iterable[str]) -> dict[str, int]:
    """Let only the named parts train; return the number of trainable parameters of each part.

    Raises UserError for a part that is not one of `PARTS`.
    """
    wanted = set(trains)
    unknown = wanted - set(PARTS)
    if unknown:
        raise UserError(
            f"trains: {sorted(unknown)[0]!r} is not a part; parts are {', '.join(PARTS)}"
        )
    counts = {}
    for part in PARTS:
        module = getattr(model, part)
        module.requires_grad_(part in wanted)
        counts[part] = sum(p.numel() for p in module.parameters() if p.requires_grad)
    model.train(model.training)  # a frozen tower is in eval mode, whichever came first
    return counts
