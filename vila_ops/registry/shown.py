"""A version and a history as commands show them: with what is known of the signatures."""

from __future__ import annotations

from typing import Any

from components.registry import Registry, Version
from components.registry.certificates import certificates, certifies
from components.registry.signatures import Signatures
from components.registry.signing import Signed, trust_of_user
from vila_core.store import Store


def version(store: Store, found: Version) -> dict[str, Any]:
    """Return a version with its aliases, what is known of its signature, and entries about it.

    `exports` are the proofs of its exports by layout, each with `holds`.
    """
    trust, signatures = trust_of_user(), Signatures(store, found.model)
    registry = Registry(store)
    aliases = registry.aliases(found.model)
    try:
        exports, problem = certificates(store, found.model, found.number), ""
    except ValueError as error:
        exports, problem = {}, str(error)
    return {
        **found.as_json(),
        "name": found.name,
        "digest": found.digest(),
        "aliases": sorted(alias for alias, number in aliases.items() if number == found.number),
        "signed": _told(signatures.examined(found, trust)),
        "exports": {
            layout: value | {"holds": certifies(value, found)} for layout, value in exports.items()
        },
        "exports_problem": problem,
        "history": [
            entry.as_json() | {"signature": None, "evidence": {}}
            for entry in registry.history(found.model)
            if entry.version == found.number
        ],
    }


def history(store: Store, model: str) -> list[dict[str, Any]]:
    """Return all entries, oldest first, each with what is known of its signature."""
    entries = Registry(store).history(model)
    examined = Signatures(store, model).all_examined(entries, trust_of_user())
    return [
        entry.as_json() | {"signed": _told(signed)}
        for entry, signed in zip(entries, examined, strict=True)
    ]


def _told(found: Signed) -> dict[str, str]:
    return {"state": found.state, "by": found.by, "text": found.text}
