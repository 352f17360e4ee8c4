"""A version and a history as commands show them: with what is known of the signatures."""

from __future__ import annotations

from typing import Any

from components.registry import HistoryEntry, Registry, Version
from components.registry.signatures import Signatures, statement_of
from components.registry.signing import Trust, examine, trust_of_user
from vila_core.store import Store


def version(store: Store, found: Version) -> dict[str, Any]:
    """Return a version with its aliases, what is known of its signature, and entries about it."""
    trust, signatures = trust_of_user(), Signatures(store, found.model)
    registry = Registry(store)
    aliases = registry.aliases(found.model)
    return {
        **found.as_json(),
        "name": found.name,
        "digest": found.digest(),
        "aliases": sorted(alias for alias, number in aliases.items() if number == found.number),
        "signed": _signed(signatures, found.model, found, trust),
        "history": [
            entry.as_json() | {"signature": None, "evidence": {}}
            for entry in registry.history(found.model)
            if entry.version == found.number
        ],
    }


def history(store: Store, model: str) -> list[dict[str, Any]]:
    """Return all entries, oldest first, each with what is known of its signature."""
    trust, signatures = trust_of_user(), Signatures(store, model)
    return [
        entry.as_json() | {"signed": _signed(signatures, model, entry, trust)}
        for entry in Registry(store).history(model)
    ]


def _signed(
    signatures: Signatures, model: str, record: Version | HistoryEntry, trust: Trust
) -> dict[str, str]:
    found = examine(signatures.of(record), statement_of(model, record), trust)
    return {"state": found.state, "by": found.by, "text": found.text}
