"""What this process has read or worked out of records, so that a page need not do it again."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Seen(Generic[T]):
    """Values by key, for any number of threads; the oldest go where they are too much together."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size, self._lock = limit, 0, threading.Lock()
        self._found: dict[Hashable, tuple[T, int]] = {}

    def get(self, key: Hashable) -> T | None:
        """Return what is kept, None for nothing."""
        with self._lock:
            found = self._found.get(key)
        return found[0] if found else None

    def put(self, key: Hashable, value: T, size: int) -> None:
        """Keep a value of a size in bytes."""
        with self._lock:
            if key not in self._found:
                self._found[key] = (value, size)
                self._size += size
            while self._size > self._limit and self._found:
                self._size -= self._found.pop(next(iter(self._found)))[1]
