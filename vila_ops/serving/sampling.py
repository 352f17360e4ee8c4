"""The next token of each answer: the likeliest, or drawn by the answer's own random numbers.

Shape letters: B answers, V words.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

COLDEST = 1e-4
"""Below this temperature the likeliest word is taken."""


@dataclass
class Sampling:
    """How one answer's words are chosen.

    One number is drawn per word, from a generator that belongs to the answer alone: the same seed
    draws the same numbers, whoever else is answered meanwhile.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        seed = secrets.randbits(64) if self.seed is None else self.seed
        self._random = random.Random(f"vila {seed}")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature < COLDEST or self.top_p == 0

    def draw(self) -> float:
        """Return the next number, from 0 up to 1."""
        return self._random.random()


def choose(logits_BV: torch.Tensor, samplings: Sequence[Sampling]) -> list[int]:
    """Return the next token of each answer; -1 where the logits are no numbers."""
    chosen = logits_BV.argmax(-1).tolist()
    drawn = [n for n, one in enumerate(samplings) if not one.is_greedy]
    if drawn:
        some = [samplings[n] for n in drawn]
        for n, token in zip(drawn, _drawn(logits_BV[drawn], some), strict=True):
            chosen[n] = token
    broken = (~torch.isfinite(logits_BV).any(-1) | torch.isnan(logits_BV).any(-1)).tolist()
    return [-1 if bad else token for token, bad in zip(chosen, broken, strict=True)]


def _drawn(logits_BV: torch.Tensor, samplings: Sequence[Sampling]) -> list[int]:
    """Draw by the inverse of the cumulative distribution, over the nucleus of `top_p`."""
    device = logits_BV.device
    heat_B1 = torch.tensor([[one.temperature] for one in samplings], device=device).double()
    top_B1 = torch.tensor([[one.top_p] for one in samplings], device=device).double()
    draw_B1 = torch.tensor([[one.draw()] for one in samplings], device=device).double()
    p_BV = torch.softmax(logits_BV.double() / heat_B1, -1)
    order_BV = None
    if any(one.top_p < 1 for one in samplings):
        p_BV, order_BV = torch.sort(p_BV, dim=-1, descending=True, stable=True)
        # A word belongs to the nucleus while those before it don't reach `top_p` yet.
        before_BV = p_BV.cumsum(-1) - p_BV
        p_BV = p_BV.masked_fill((before_BV >= top_B1) & (top_B1 < 1), 0.0)
    sum_BV = p_BV.cumsum(-1)
    at_B1 = torch.searchsorted(sum_BV, draw_B1 * sum_BV[:, -1:], right=True)
    at_B1 = at_B1.clamp(max=p_BV.shape[-1] - 1)
    if order_BV is not None:
        at_B1 = order_BV.gather(-1, at_B1)
    return at_B1[:, 0].tolist()
