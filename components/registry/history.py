"""The history of a model: entries that are never changed, each with the digest of the one before.

registry/<model>/history/<seq>.json   create-only; seq counts up from 1
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from components.registry.records import HistoryEntry, read_entry
from vila_core.errors import Damaged, NotFound
from vila_core.store import Store

_NUMBER = re.compile(r"[1-9][0-9]{0,11}")


def read_history(store: Store, model: str) -> list[HistoryEntry]:
    """Return all entries of a model, oldest first. Raises Damaged when the chain is broken."""
    entries = []
    for number in numbers_in(store.children(f"registry/{model}/history")):
        place = entry_place(model, number)
        try:
            entries.append(read_entry(store.read(place), place))
        except NotFound:
            raise Damaged(f"{place}: was there, and is not any more; it was removed.") from None
    check_chain(entries, model)
    return entries


def check_chain(entries: Sequence[HistoryEntry], model: str) -> None:
    """Raise Damaged unless the entries count up from 1 and each follows the one before."""
    previous = ""
    for number, entry in enumerate(entries, start=1):
        if entry.previous != previous or entry.seq != number:
            raise Damaged(
                f"registry/{model}/history: entry {entry.seq} does not follow the one before; "
                "an entry was changed or removed.\n"
                f"  fix: vila registry verify {model}"
            )
        previous = entry.digest()


def last_decision(entries: Iterable[HistoryEntry], version: int) -> HistoryEntry | None:
    """Return the latest entry that approves or rejects a version, None if there is none."""
    found = None
    for entry in entries:
        if entry.version == version and entry.kind in ("approve", "reject"):
            found = entry
    return found


def numbers_in(names: Iterable[str]) -> list[int]:
    """Return the numbers of the records in a folder, in order; other files are none."""
    return sorted(int(name[:-5]) for name in names if is_record(name))


def is_record(name: str) -> bool:
    """Return whether a file's name is that of a record: 1.json, 2.json, …."""
    number = name.removesuffix(".json")
    return name.endswith(".json") and bool(_NUMBER.fullmatch(number))


def entry_place(model: str, seq: int) -> str:
    """Return the key of an entry."""
    return f"registry/{model}/history/{seq}.json"
