"""Where signatures are: in the record, or beside it where they were made later.

registry/<model>/signatures/<kind>-<number>-<key>.json    create-only; kind: version, entry
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from components.registry.keyless import state_of_root
from components.registry.keys import SigningKey
from components.registry.records import HistoryEntry, Version
from components.registry.seen import Seen
from components.registry.signing import (
    Signed,
    Statement,
    Trust,
    examine,
    of_entry,
    of_version,
    sign,
)
from vila_core.errors import AlreadyExists, NotFound
from vila_core.jsonio import dumps
from vila_core.store import Store

PARALLEL = 16
"""Signatures that are read at a time from a remote store."""
BUNDLES: Seen[Mapping[str, Any]] = Seen(16 * 2**20)
"""Signatures that were made later, of remote stores, by store, key and etag."""
EXAMINED: Seen[Signed] = Seen(8 * 2**20)
"""What was found, by all that it follows from: record, signatures, and whom one trusts."""


class Signatures:
    """The signatures of a model's records, as they are now."""

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model = store, model
        self._folder, self._root = f"registry/{model}/signatures", state_of_root()
        self._remote = store.local_path(self._folder) is None
        self._tags: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}
        if self._remote:
            self._tags = {k.rpartition("/")[2]: tag for k, tag in store.etags(f"{self._folder}/")}
        for name in self._tags if self._remote else store.children(self._folder):
            self._names.setdefault(_lead_of(name), []).append(name)

    def of(self, record: Version | HistoryEntry) -> list[Mapping[str, Any]]:
        """Return the bundles of a record: its own, and those that were made later."""
        later = [self._read(name) for name in self._names.get(_lead(record), ())]
        own = [] if record.signature is None else [record.signature]
        return own + [bundle for bundle in later if bundle is not None]

    def examined(self, record: Version | HistoryEntry, trust: Trust) -> Signed:
        """Return what is known of a record's signatures: see `examine`.

        The record and its signatures are those of now; only what was found of the very same ones
        before is not computed again.
        """
        bundles = self.of(record)
        key = self._key(record, bundles, trust)
        found = EXAMINED.get(key)
        if found is None:
            found = examine(bundles, statement_of(self._model, record), trust)
            EXAMINED.put(key, found, 500)
        return found

    def _key(
        self, record: Version | HistoryEntry, bundles: list[Mapping[str, Any]], trust: Trust
    ) -> Hashable:
        """Return all that the result follows from."""
        try:
            text = json.dumps(bundles)
        except RecursionError:  # no signature of ours is so deep: it is only looked at once
            return object()
        return (
            self._model,
            type(record),
            record.digest(),
            hashlib.sha256(text.encode()).digest(),
            tuple((one.key_id, one.name) for one in trust.keys.values()),
            trust.identities,
            self._root,
        )

    def all_examined(self, records: Sequence[Version | HistoryEntry], trust: Trust) -> list[Signed]:
        """Return what is known of the signatures of many records, in their order."""
        if not self._remote:
            return [self.examined(record, trust) for record in records]
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(lambda record: self.examined(record, trust), records))

    def add(self, record: Version | HistoryEntry, key: SigningKey) -> bool:
        """Sign a record that this key has not signed yet; return whether it had not."""
        if any(_signer(bundle) == key.key_id for bundle in self.of(record)):
            return False
        name = f"{_lead(record)}{key.key_id[:16]}.json"
        bundle = sign(statement_of(self._model, record), key)
        text = dumps(bundle, indent=1) + "\n"
        try:
            self._store.write(f"{self._folder}/{name}", text.encode(), create_only=True)
        except AlreadyExists:
            return False
        names = self._names.setdefault(_lead(record), [])
        names[:] = sorted({*names, name})
        return True

    def _read(self, name: str) -> Mapping[str, Any] | None:
        place = f"{self._folder}/{name}"
        key = (self._store.uri, place, self._tags[name]) if name in self._tags else None
        found = BUNDLES.get(key) if key else None
        if found is not None:
            return found
        try:
            data = self._store.read(place)
            value = json.loads(data)
        except NotFound:
            return None
        except (ValueError, RecursionError):
            return {}  # no bundle: it is found to be bad
        found = value if isinstance(value, dict) else {}
        if key:
            BUNDLES.put(key, found, len(data))
        return found


def statement_of(model: str, record: Version | HistoryEntry) -> Statement:
    """Return what the signatures of a record are over."""
    return of_version(record) if isinstance(record, Version) else of_entry(model, record)


def _lead(record: Version | HistoryEntry) -> str:
    if isinstance(record, Version):
        return f"version-{record.number}-"
    return f"entry-{record.seq}-"


def _lead_of(name: str) -> str:
    """Return what comes before the key in the name of a file."""
    return name.rpartition("-")[0] + "-"


def _signer(bundle: Mapping[str, Any]) -> str:
    try:
        return str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except (KeyError, TypeError):
        return ""
