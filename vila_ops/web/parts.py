"""Parts of a page that may fail alone: what can't be read is a note in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vila_core.errors import VilaError

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What values that no record of ours holds lead to."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Part(Generic[Value]):
    """A value, or why there is none."""

    value: Value | None
    problem: str = ""


def part(make: Callable[[], Value]) -> Part[Value]:
    """Return what `make` returns; what the store or a foreign record raises is the problem."""
    try:
        return Part(make())
    except (VilaError, OSError) as error:
        return Part(None, str(error))
    except MALFORMED as error:
        return Part(None, f"the record is not ours: {type(error).__name__}: {error}")
