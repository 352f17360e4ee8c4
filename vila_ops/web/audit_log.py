"""Reading the audit log: newest first, filtered, and whether it is whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, Field

from vila_core.errors import NotFound
from vila_core.store import Store
from vila_ops.web.audit import FOLDER, Entry, entries_of

PAGE_ENTRIES = 100
MOST_OBJECTS = 300
"""Objects that are read for one page; a search that finds little goes on with the next page."""
BEFORE = r"^(\d{4}-\d{2}-\d{2}/[0-9.-]{15}-[0-9a-f]{12}-\d{8}\.jsonl)?$"
"""What names an object to `read_audit`, or none."""


class Filter(BaseModel):
    """What is looked for: parts of a text, in any case; empty means all."""

    who: str = Field(default="", max_length=128)
    action: str = Field(default="", max_length=128)
    what: str = Field(default="", max_length=200)
    client: str = Field(default="", max_length=64)
    outcome: str = Field(default="", max_length=16)

    def takes(self, entry: Entry) -> bool:
        """Return whether an entry is one of those."""
        return all(
            text.casefold() in str(getattr(entry, name)).casefold() for name, text in self if text
        )


@dataclass(frozen=True)
class Found:
    """Entries, newest first. `older` is where the next page begins, None at the end."""

    entries: tuple[Entry, ...]
    older: str | None
    unreadable: tuple[str, ...]


def read_audit(store: Store, wanted: Filter, before: str = "") -> Found:
    """Return the newest entries in objects before `before`, an object's name below `audit/`.

    Raises StoreError.
    """
    entries: list[Entry] = []
    unreadable, last, read = [], "", 0
    for name in _newest_first(store, before):
        if len(entries) >= PAGE_ENTRIES or read == MOST_OBJECTS:
            return Found(tuple(entries), last, tuple(unreadable))
        read, last = read + 1, name
        try:
            held = entries_of(store.read(FOLDER + name))
        except NotFound:
            continue
        except ValueError:
            unreadable.append(name)
            continue
        entries += [entry for entry, _ in reversed(held) if wanted.takes(entry)]
    return Found(tuple(entries), None, tuple(unreadable))


def newest(store: Store, count: int) -> list[Entry]:
    """Return the newest entries, oldest of them first. Raises StoreError."""
    entries: list[Entry] = []
    before: str | None = ""
    while before is not None and len(entries) < count:
        found = read_audit(store, Filter(), before)
        entries += found.entries
        before = found.older
    return entries[:count][::-1]


def audit_findings(store: Store) -> tuple[int, list[str]]:
    """Return how many entries the log has, and what of it is changed, missing or foreign.

    The newest entries of a writer, and all of one writer, can be gone unseen: nothing points to
    them. Raises StoreError.
    """
    chains: dict[str, list[tuple[Entry, str, str]]] = defaultdict(list)
    found = []
    for key in store.list(FOLDER):
        try:
            for entry, line in entries_of(store.read(key)):
                chains[entry.writer].append((entry, line, key))
        except ValueError:
            found.append(f"{key}: is no object of the audit log, or was changed")
    for writer, chain in sorted(chains.items()):
        chain.sort(key=lambda one: one[0].seq)
        seq, previous = 0, ""
        for entry, line, key in chain:
            if entry.seq != seq + 1:
                text = f"after entry {seq} of writer {writer} comes entry {entry.seq}"
                found.append(f"{key}: {text}: some are missing, or written twice")
            elif entry.previous != previous:
                found.append(f"{key}: entry {seq} of writer {writer}, or this one, was changed")
            seq, previous = entry.seq, line
    return sum(map(len, chains.values())), found


def _newest_first(store: Store, before: str) -> Iterator[str]:
    day, _, rest = before.partition("/")
    for one in reversed(store.children(FOLDER.rstrip("/"))):
        if day and one > day:
            continue
        for name in reversed(store.children(FOLDER + one)):
            if not rest or one < day or name < rest:
                yield f"{one}/{name}"
