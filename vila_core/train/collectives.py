"""Which collective this process called last: the first thing to ask of ranks that hang."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

_NAMES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "all_to_all",
    "all_to_all_single", "barrier", "broadcast", "broadcast_object_list", "gather", "reduce",
    "reduce_scatter", "reduce_scatter_tensor", "scatter",
)  # fmt: skip


@dataclass
class Collective:
    """One call. `number` counts the process's calls: ranks in step have the same numbers."""

    number: int
    name: str
    tensors: str
    called: float  # by time.monotonic
    returned: bool = False  # on a GPU, or asynchronously, that means queued, not done

    def __str__(self) -> str:
        ago = time.monotonic() - self.called
        state = "returned" if self.returned else "NOT returned"
        return f"#{self.number} {self.name}({self.tensors}), called {ago:.0f} s ago, {state}"


_last: Collective | None = None


def last_collective() -> Collective | None:
    """Return the last call that was recorded."""
    return _last


def record_collectives() -> None:
    """Record the calls of `torch.distributed`'s collectives from now on, DeepSpeed's included.

    For the rest of the process: DeepSpeed keeps some of the functions. Costs some microseconds per
    call.
    """
    for name in _NAMES:
        function = getattr(dist, name, None)
        if function is not None and not hasattr(function, "recorded"):
            setattr(dist, name, _recorded(name, function))


def _recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        global _last
        number = 1 if _last is None else _last.number + 1
        values = (*args, *kwargs.values())
        entry = Collective(number, name, ", ".join(_words(values)), time.monotonic())
        _last = entry
        result = function(*args, **kwargs)
        entry.returned = True
        return result

    call.recorded = True  # type: ignore[attr-defined]
    return call


def _words(values: tuple[Any, ...]) -> list[str]:
    return [
        f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        for value in values
        if isinstance(value, torch.Tensor)
    ]
