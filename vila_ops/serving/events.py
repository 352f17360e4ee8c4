"""What an answer's reader hears while it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vila_ops.serving.problem import ApiError

Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """More text."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The last text, why there is no more, and the number of tokens in all."""

    text: str
    reason: Reason
    tokens: int


@dataclass(frozen=True)
class Failed:
    """No answer, or no more of it."""

    error: ApiError


Event = Piece | Finished | Failed
Hear = Callable[[Event], None]
