"""The index of lineage: what ten thousand records say, without reading them all.

    index/lineage-2.npz     what `facts.py` takes of each, and what proves that it still holds

Like the index of runs it is a cache that only readers write; it may be deleted at any time. What an
answer rests on is what reading every record would have given at that time:

- which runs and versions there are is asked of the store each time;
- a run that succeeded never changes again; one that failed or was stopped is unchanged while its
  `end.json` has the same etag; any other while nothing in its record is (names, times and sizes);
- a version is unchanged while its file is (etag; in a directory time, size and inode);
- an artifact of prepared data is named by its content. Whether it is still there is asked when it
  is shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from components.registry.history import is_record
from vila_core.errors import Conflict, Damaged, NotFound, StoreError
from vila_core.store import Store
from vila_ops.lineage.facts import (
    MALFORMED,
    DataFacts,
    RunFacts,
    VersionFacts,
    from_json,
    read_data,
    read_run,
    read_version,
    to_json,
)
from vila_ops.lineage.packed import BROKEN, Heads, Packed, pack, unpack
from vila_ops.run_index import record_fingerprint, side_by_side

KEY = "index/lineage-2.npz"
"""The number is the format's."""
WORTH_WRITING = 8
MOST_LOOSE = 256
"""Entries that are looked through one by one before all are sorted anew."""
CHUNK = 1000
MOST_PARSED = 2048

Facts = RunFacts | VersionFacts | DataFacts
_SIDES = ("inputs", "outputs")


class LineageIndex:
    """What is known of a store. Call `refresh` before asking; one thread at a time (`lock`)."""

    def __init__(self, store: Store, say: Callable[[str], None] = lambda text: None) -> None:
        self.store = store
        self.lock = threading.RLock()
        self.unreadable: dict[str, str] = {}
        """Records that can't be read, by key (`runs/…`, `registry/…`), and why."""
        self._say = say
        self._entries: dict[str, Packed] = {}
        self._tag: str | None = None
        self._opened = False
        self._news = 0
        self._heads: Heads | None = None
        self._loose: set[str] = set()  # not in `_heads` as they are now
        self._bad: dict[str, str] = {}  # proof of a record that can't be read
        self._absent: set[str] = set()  # data that was not there when it was looked for
        self._parsed = lru_cache(MOST_PARSED)(lambda packed: from_json(packed.value()))

    def __len__(self) -> int:
        return len(self._entries)

    def refresh(self) -> None:
        """Learn what is new in the store. Raises StoreError."""
        if not self._opened:
            self._open()
        before = set(self._loose)
        self._runs()
        self._versions()
        self._data(key for key in self._loose - before if key in self._entries)

    def write(self) -> None:
        """Keep the index in the store, if there is enough news; never fails for it."""
        if self._news < WORTH_WRITING:
            return
        with contextlib.suppress(StoreError):  # a store that may only be read
            try:
                self._tag = self.store.swap(KEY, pack(self._entries), expected=self._tag)
            except Conflict:  # somebody else's is as good
                self._tag = self.store.etag(KEY)
        self._news = 0

    def run_ids(self) -> list[str]:
        """Return the ids of all runs."""
        return [key.removeprefix("runs/") for key in self._entries if key.startswith("runs/")]

    def version_names(self) -> list[str]:
        """Return the names of all versions, `model@number`."""
        found = [key.split("/") for key in self._entries if key.startswith("registry/")]
        return [f"{model}@{name.removesuffix('.json')}" for _, model, _, name in found]

    def run(self, run_id: str) -> RunFacts | None:
        """Return a run, None where there is none that can be read."""
        found = self.facts(f"runs/{run_id}")
        return found if isinstance(found, RunFacts) else None

    def version(self, model: str, number: int) -> VersionFacts | None:
        """Return a version, None where there is none that can be read."""
        found = self.facts(f"registry/{model}/versions/{number}.json")
        return found if isinstance(found, VersionFacts) else None

    def data(self, sha256: str) -> DataFacts | None:
        """Return the corpora of an artifact, None where it has none that are known."""
        found = self.facts(f"artifacts/{sha256}")
        return found if isinstance(found, DataFacts) else None

    def all_data(self) -> list[DataFacts]:
        """Return all artifacts with corpora."""
        keys = [key for key in self._entries if key.startswith("artifacts/")]
        found = [self.facts(key) for key in keys]
        return [one for one in found if isinstance(one, DataFacts)]

    def holding(self, digest: str) -> list[str]:
        """Return the keys of records that may hold a digest, or a hex text that begins so.

        They are candidates: only their facts say what the digest is there. Runs come first, the
        newest before others; of a whole sha256, versions only that name it themselves, not by the
        tasks behind them.
        """
        if self._heads is None or len(self._loose) > MOST_LOOSE:
            self._heads, self._loose = Heads(self._entries), set()
        keys = dict.fromkeys(self._heads.holding(digest))
        keys |= dict.fromkeys(sorted(self._loose))
        if len(digest) <= 40:  # git's and DVC's are shorter: they stand in the texts
            needle = f'"{digest}'.encode()
            keys |= {key: None for key, one in self._entries.items() if needle in one.text}
        known = [key for key in reversed(keys) if key in self._entries]
        versions = [key for key in known if key.startswith("registry/")]
        if len(digest) == 64:
            row = bytes.fromhex(digest)
            versions = [key for key in versions if self._entries[key].leads_with(row)]
        runs = [key for key in known if key.startswith("runs/")]
        return [*runs, *(key for key in known if key.startswith("artifacts/")), *versions]

    def mentions(self, key: str, text: str) -> bool:
        """Return whether a record's entry may hold a text, without reading it."""
        packed = self._entries.get(key)
        return packed is not None and text.encode() in packed.text

    def exists(self, sha256: str) -> bool:
        """Return whether an artifact is in the store. Raises StoreError."""
        return self.store.exists(f"artifacts/{sha256}/manifest.json")

    def facts(self, key: str) -> Facts | None:
        """Return what a record's entry says, None where there is none."""
        packed = self._entries.get(key)
        if packed is None:
            return None
        try:
            return self._parsed(packed)
        except MALFORMED:  # the index in the store is not as we left it
            self._entries.pop(key, None)
            self._loose.discard(key)
            return None

    def _open(self) -> None:
        self._tag = self.store.etag(KEY)
        if self._tag is not None:
            try:
                self._entries = unpack(self.store.read(KEY))
            except (NotFound, *BROKEN):
                self._entries = {}
        self._opened = True

    def _runs(self) -> None:
        present = self.store.children("runs")
        self._forget("runs/", {f"runs/{run_id}" for run_id in present})
        doubtful = [
            run_id
            for run_id in present
            if (one := self._entries.get(f"runs/{run_id}")) is None or one.proof != "final"
        ]
        if len(doubtful) >= 500 and not self._heads:
            self._say(f"reading up to {len(doubtful):,} runs for the index of lineage, once")
        for start in range(0, len(doubtful), CHUNK):
            part = doubtful[start : start + CHUNK]
            answers = side_by_side(self.store, self._read_run, part)
            for run_id, (packed, proof, why) in zip(part, answers, strict=True):
                self._put(f"runs/{run_id}", packed, proof, why)
            if start:
                self.write()  # what is interrupted here need not begin again

    def _read_run(self, run_id: str) -> tuple[Packed | None, str, str]:
        """Return the entry (None: as it was, or none), its proof, and why it can't be read."""
        key = f"runs/{run_id}"
        end = self.store.etag(f"{key}/end.json")
        proof = f"end {end}" if end else f"all {record_fingerprint(self.store, run_id)}"
        known = self._entries.get(key)
        if known is not None and known.proof == proof:
            return None, proof, ""
        if self._bad.get(key) == proof:
            return None, proof, self.unreadable.get(key, "")
        try:
            facts = read_run(self.store, run_id)
            if end and _succeeded(self.store.read(f"{key}/end.json")):
                proof = "final"
            return Packed.of(to_json(facts), proof), proof, ""
        except NotFound:
            return None, "", ""
        except MALFORMED as error:
            return None, proof, f"{type(error).__name__}: {error}"

    def _versions(self) -> None:
        tags = {
            key: tag
            for model in self.store.children("registry")
            for key, tag in _tags(self.store, f"registry/{model}/versions")
            if is_record(key.rpartition("/")[2])
        }
        self._forget("registry/", tags.keys())
        for key, tag in tags.items():
            known = self._entries.get(key)
            if (known is not None and known.proof == tag) or self._bad.get(key) == tag:
                continue
            try:
                _, model, _, name = key.split("/")
                facts = read_version(self.store, model, int(name.removesuffix(".json")))
                self._put(key, Packed.of(to_json(facts), tag), tag, "")
            except NotFound:
                continue
            except Damaged as error:
                self._put(key, None, tag, str(error))
            except MALFORMED as error:
                self._put(key, None, tag, f"{type(error).__name__}: {error}")

    def _data(self, keys: Iterable[str]) -> None:
        """Read the corpora of the prepared data that these records name, if nobody has before."""
        wanted: set[str] = set()
        for key in keys:
            facts = self.facts(key)
            if isinstance(facts, RunFacts):
                named = [part for one in facts.attempts for part in (one.inputs, one.outputs)]
            elif isinstance(facts, VersionFacts):
                named = [task[side] for task in facts.tasks.values() for side in _SIDES]
            else:
                continue
            wanted |= {one["data"] for one in named if "data" in one}
        for sha256 in sorted(wanted - self._absent):
            self.learn_data(sha256)

    def learn_data(self, sha256: str) -> DataFacts | None:
        """Return the corpora of an artifact, read now if they are not known."""
        key = f"artifacts/{sha256}"
        if key not in self._entries:
            self.unreadable.pop(key, None)
            try:
                facts = read_data(self.store, sha256)
                self._put(key, Packed.of(to_json(facts), "content"), "content", "")
                self._absent.discard(sha256)
            except NotFound:
                self._absent.add(sha256)
            except MALFORMED as error:
                self._absent.add(sha256)
                self.unreadable[key] = f"{type(error).__name__}: {error}"
        return self.data(sha256)

    def _put(self, key: str, packed: Packed | None, proof: str, why: str) -> None:
        """Take a record as it was read just now: a new entry, unchanged, or not to be read."""
        self.unreadable.pop(key, None)
        self._bad.pop(key, None)
        if why:
            self.unreadable[key] = why
            self._bad[key] = proof
        if packed is None and proof and not why:
            return
        if self._entries.pop(key, None) is not None or packed is not None:
            self._loose.add(key)
            self._news += 1
        if packed is not None:
            self._entries[key] = packed

    def _forget(self, lead: str, present: Iterable[str]) -> None:
        """Drop the entries of records that are gone."""
        kept = set(present)
        for key in [key for key in self._entries if key.startswith(lead) and key not in kept]:
            del self._entries[key]
            self._news += 1
        for key in [key for key in self.unreadable if key.startswith(lead) and key not in kept]:
            del self.unreadable[key]
            self._bad.pop(key, None)


def _succeeded(data: bytes) -> bool:
    return json.loads(data).get("status") == "succeeded"


def _tags(store: Store, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the keys in a folder, each with what changes when its value does."""
    place = store.local_path(folder)
    if place is None:
        yield from store.etags(f"{folder}/")
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as found:
        for one in found:
            with contextlib.suppress(FileNotFoundError):
                seen = one.stat()
                yield f"{folder}/{one.name}", f"{seen.st_mtime_ns} {seen.st_size} {seen.st_ino}"
