"""Certificates of a version's exports: the proof that another library gives the same logits.

registry/<model>/certificates/<n>/<format>.json    create-only: the first proof stays
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.registry.records import Version
from components.registry.users import user_name
from components.runtime.record import now
from vila_core.errors import AlreadyExists
from vila_core.jsonio import dumps
from vila_core.store import Store

FORMATS = ("hf", "llava", "vila")
"""Of an export: transformers' LLaVA, LLaVA-1.5's folder, VILA-1.5's three folders."""


def certificates(store: Store, model: str, number: int) -> dict[str, dict[str, Any]]:
    """Return the certificates of a version by format; none where it was never exported.

    Each holds `format`, `artifact` (sha256 of the exported model), `certificate` (what the export
    wrote), `made_at` and `made_by`. Raises StoreError, and ValueError for one that is no JSON.
    """
    found = {}
    for name in store.children(f"registry/{model}/certificates/{number}"):
        kind = name.removesuffix(".json")
        if kind in FORMATS:
            found[kind] = json.loads(store.read(place(model, number, kind)))
    return found


def keep_certificate(
    store: Store, version: Version, kind: str, certificate: Mapping[str, Any]
) -> dict[str, Any]:
    """Keep the certificate of an export and return what is kept: the first one, if there was one.

    Raises StoreError.
    """
    value = {
        "format": kind,
        "model": version.model,
        "version": version.number,
        "artifact": version.artifact.sha256,
        "certificate": dict(certificate),
        "made_at": now(),
        "made_by": user_name(),
    }
    key = place(version.model, version.number, kind)
    try:
        store.write(key, (dumps(value, indent=1) + "\n").encode(), create_only=True)
    except AlreadyExists:
        return json.loads(store.read(key))
    return value


def place(model: str, number: int, kind: str) -> str:
    """Return the store key of a certificate."""
    return f"registry/{model}/certificates/{number}/{kind}.json"


def certifies(value: Mapping[str, Any], version: Version) -> bool:
    """Return whether a certificate is of this very model, each prompt within its tolerance."""
    rows = (value.get("certificate") or {}).get("prompts") or ()
    return (
        value.get("artifact") == version.artifact.sha256
        and len(rows) > 0
        and all(row["max_abs_difference"] <= row["tolerance"] for row in rows)
    )
