"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


def lr_factor(step: int, *, steps: int, warmup_steps: int = 0, min_lr_ratio: float = 0.0) -> float:
    """Return the share of the highest learning rate for the update number `step` (from 0).

    Linear warm-up from `1 / warmup_steps` to 1, then half a cosine down to `min_lr_ratio`, which
    is reached one step after the last (so that no update is wasted on a rate of zero).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
