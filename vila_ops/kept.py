"""What was read or computed once, kept while there is room: of values that never change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by name, at most `most` bytes of them; who was not asked for longest goes first.

    Threads may share it. Two that miss the same value at once both make it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """How much is held, by what each value was said to take."""
        return self._bytes

    def peek(self, name: Hashable) -> T | None:
        """Return the value of that name if it is there."""
        with self._lock:
            if name not in self._held:
                return None
            self._held.move_to_end(name)
            return self._held[name][0]

    def get(self, name: Hashable, make: Callable[[], tuple[T, int]]) -> T:
        """Return the value of that name; `make` gives it with its size in bytes where it is new.

        What `make` raises is raised, and nothing is kept. A value larger than all room is returned
        and not kept.
        """
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name][0]
        value, size = make()
        with self._lock:
            if name not in self._held and size <= self._most:
                self._held[name] = (value, size)
                self._bytes += size
                while self._bytes > self._most:
                    _, (_, gone) = self._held.popitem(last=False)
                    self._bytes -= gone
        return value
