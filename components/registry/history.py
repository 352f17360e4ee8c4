"""The history of a model: entries that are never changed, each with the digest of the one before.

registry/<model>/history/<seq>.json   create-only; seq counts up from 1
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from components.registry.records import HistoryEntry, read_entry
from components.registry.seen import Seen
from vila_core.errors import Damaged, NotFound
from vila_core.store import Store

_NUMBER = re.compile(r"[1-9][0-9]{0,11}")


def read_history(store: Store, model: str) -> list[HistoryEntry]:
    """Return all entries of a model, oldest first. Raises Damaged when the chain is broken.

    From a remote store only entries are fetched that were not seen before, or not as the store
    lists them now (its etags), several at a time: a list is one request for a thousand entries.
    """
    folder = f"registry/{model}/history"
    if store.local_path(folder) is not None:
        numbers = numbers_in(store.children(folder))
        entries = [_read(store, entry_place(model, number))[0] for number in numbers]
    else:
        tags = {key.rpartition("/")[2]: tag for key, tag in store.etags(f"{folder}/")}
        places = [(entry_place(model, one), tags[f"{one}.json"]) for one in numbers_in(tags)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            entries = list(pool.map(lambda item: _remembered(store, *item), places))
    check_chain(entries, model)
    return entries


def _remembered(store: Store, place: str, tag: str) -> HistoryEntry:
    key = (store.uri, place, tag)
    entry = SEEN.get(key)
    if entry is None:
        entry, size = _read(store, place)
        SEEN.put(key, entry, size)
    return entry


def _read(store: Store, place: str) -> tuple[HistoryEntry, int]:
    try:
        data = store.read(place)
    except NotFound:
        raise Damaged(f"{place}: was there, and is not any more; it was removed.") from None
    return read_entry(data, place), len(data)


PARALLEL = 16
"""Entries that are read at a time from a remote store."""
SEEN: Seen[HistoryEntry] = Seen(32 * 2**20)
"""What this process has read of remote histories; the limit is in bytes of their JSON."""


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
