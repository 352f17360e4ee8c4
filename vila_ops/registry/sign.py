"""Sign records that were made without a key, or by somebody else's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from components.registry import HistoryEntry, Registry, Version
from components.registry.keys import own_key
from components.registry.signatures import Signatures
from vila_core.errors import UserError, VilaError
from vila_core.store import Store


@dataclass(frozen=True)
class SignedRecords:
    """How many records of a model were signed, and by which key."""

    model: str
    key_id: str
    versions: int
    entries: int

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON-able mapping."""
        return asdict(self)


def sign(store: Store, name: str) -> SignedRecords:
    """Sign a model's records with this user's key, which is made on first use.

    `name` is a model: all versions and its whole history; or a version: it, and the entries about
    it. What the key has signed already stays. Raises UserError for an unknown name, Damaged for a
    broken chain, which nobody should sign.
    """
    registry = Registry(store)
    model, separator, _ = name.partition("@")
    if separator:
        wanted = registry.resolve(name)
        versions: list[Version] = [wanted]
        entries = [one for one in registry.history(model) if one.version == wanted.number]
    else:
        if model not in registry.models():
            known = ", ".join(registry.models()) or "none yet"
            raise UserError(f"no model '{model}' is registered; registered: {known}.")
        versions, entries = registry.versions(model), registry.history(model)
    _check_named(versions, entries)
    key = own_key(create=True)
    if key is None:
        raise VilaError("there is no signing key; fix: vila registry key create")
    signatures = Signatures(store, model)
    return SignedRecords(
        model,
        key.key_id,
        sum(signatures.add(version, key) for version in versions),
        sum(signatures.add(entry, key) for entry in entries),
    )


def _check_named(versions: list[Version], entries: list[HistoryEntry]) -> None:
    """Refuse versions that were changed after the history named them."""
    digests = {version.number: version.digest() for version in versions}
    for entry in entries:
        found = digests.get(entry.version)
        if found is not None and entry.version_digest not in ("", found):
            raise UserError(
                f"versions/{entry.version}.json was changed after entry {entry.seq} of the history "
                "named it, and is not signed.\n  fix: vila registry verify"
            )
