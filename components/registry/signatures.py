"""Where signatures are: in the record, or beside it where they were made later.

registry/<model>/signatures/<kind>-<number>-<key>.json    create-only; kind: version, entry
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.registry.keys import SigningKey
from components.registry.records import HistoryEntry, Version
from components.registry.signing import Statement, of_entry, of_version, sign
from vila_core.errors import AlreadyExists, NotFound
from vila_core.jsonio import dumps
from vila_core.store import Store


class Signatures:
    """The signatures of a model's records, as they are now."""

    def __init__(self, store: Store, model: str) -> None:
        self._store, self._model = store, model
        self._names = store.children(f"registry/{model}/signatures")

    def of(self, record: Version | HistoryEntry) -> list[Mapping[str, Any]]:
        """Return the bundles of a record: its own, and those that were made later."""
        lead = _lead(record)
        later = [self._read(name) for name in self._names if name.startswith(lead)]
        own = [] if record.signature is None else [record.signature]
        return own + [bundle for bundle in later if bundle is not None]

    def add(self, record: Version | HistoryEntry, key: SigningKey) -> bool:
        """Sign a record that this key has not signed yet; return whether it had not."""
        if any(_signer(bundle) == key.key_id for bundle in self.of(record)):
            return False
        name = f"{_lead(record)}{key.key_id[:16]}.json"
        bundle = sign(statement_of(self._model, record), key)
        text = dumps(bundle, indent=1) + "\n"
        try:
            place = f"registry/{self._model}/signatures/{name}"
            self._store.write(place, text.encode(), create_only=True)
        except AlreadyExists:
            return False
        self._names = sorted({*self._names, name})
        return True

    def _read(self, name: str) -> Mapping[str, Any] | None:
        try:
            value = json.loads(self._store.read(f"registry/{self._model}/signatures/{name}"))
        except NotFound:
            return None
        except (ValueError, RecursionError):
            return {}  # no bundle: it is found to be bad
        return value if isinstance(value, dict) else {}


def statement_of(model: str, record: Version | HistoryEntry) -> Statement:
    """Return what the signatures of a record are over."""
    return of_version(record) if isinstance(record, Version) else of_entry(model, record)


def _lead(record: Version | HistoryEntry) -> str:
    if isinstance(record, Version):
        return f"version-{record.number}-"
    return f"entry-{record.seq}-"


def _signer(bundle: Mapping[str, Any]) -> str:
    try:
        return str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except (KeyError, TypeError):
        return ""
