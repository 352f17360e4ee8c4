"""Requests that wait, served by turns of those who ask: nobody's many hold up another's one."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A bounded queue per asker, taken from by turns. Not safe for threads by itself."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._of: OrderedDict[str, deque[Item]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        """Yield all that wait, asker by asker."""
        for waiting in self._of.values():
            yield from waiting

    def add(self, asker: str, item: Item) -> bool:
        """Add an item; return False when the queue is full.

        While others wait as well, one asker gets no more than half of the places.
        """
        own = self._of.get(asker)
        crowded = own is not None and len(self._of) > 1 and 2 * len(own) >= self.most
        if self._length >= self.most or crowded:
            return False
        self._of.setdefault(asker, deque()).append(item)
        self._length += 1
        return True

    def first(self) -> Item | None:
        """Return the item whose turn it is, without taking it."""
        return next(iter(self._of.values()))[0] if self._of else None

    def take(self) -> Item:
        """Take the item whose turn it is; its asker's next one is last of all askers'."""
        asker, waiting = next(iter(self._of.items()))
        item = waiting.popleft()
        self._length -= 1
        if waiting:
            self._of.move_to_end(asker)
        else:
            del self._of[asker]
        return item

    def drop(self, asker: str, item: Item) -> bool:
        """Take out an item that doesn't want to wait any more; return whether it was there."""
        waiting = self._of.get(asker)
        if waiting is None or item not in waiting:
            return False
        waiting.remove(item)
        self._length -= 1
        if not waiting:
            del self._of[asker]
        return True

    def clear(self) -> list[Item]:
        """Take out everything."""
        items = list(self)
        self._of.clear()
        self._length = 0
        return items
