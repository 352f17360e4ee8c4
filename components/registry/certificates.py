"""Certificates of a version's exports: the proof that another library gives the same logits.

registry/<model>/certificates/<n>/<layout>.json    create-only: the first proof stays
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.registry.records import Version
from components.registry.users import user_name
from components.runtime.record import now
from vila_core.errors import AlreadyExists, UserError
from vila_core.jsonio import dumps
from vila_core.layouts import check_layout
from vila_core.store import Store


def certificates(store: Store, model: str, number: int) -> dict[str, dict[str, Any]]:
    """Return the certificates of a version by layout; none where it was never exported.

    Each holds `artifact` (sha256 of the exported model), `certificate` (what the export wrote),
    `made_at` and `made_by`. The layout is the one that the export wrote, whatever the file is
    called: files of an earlier time have other names. Raises StoreError, and ValueError, which
    names the file, for one that is no certificate.
    """
    found: dict[str, dict[str, Any]] = {}
    folder = f"registry/{model}/certificates/{number}"
    for name in store.children(folder):
        try:
            value = json.loads(store.read(f"{folder}/{name}"))
            check_layout(value["certificate"]["layout"])
        except (UserError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{folder}/{name} is no certificate ({error})") from None
        found.setdefault(value["certificate"]["layout"], value)
    return found


def keep_certificate(
    store: Store, version: Version, certificate: Mapping[str, Any]
) -> dict[str, Any]:
    """Keep the certificate of an export and return what is kept: the first one, if there was one.

    Raises StoreError.
    """
    value = {
        "model": version.model,
        "version": version.number,
        "artifact": version.artifact.sha256,
        "certificate": dict(certificate),
        "made_at": now(),
        "made_by": user_name(),
    }
    key = place(version.model, version.number, certificate["layout"])
    try:
        store.write(key, (dumps(value, indent=1) + "\n").encode(), create_only=True)
    except AlreadyExists:
        return json.loads(store.read(key))
    return value


def place(model: str, number: int, layout: str) -> str:
    """Return the store key of a certificate."""
    return f"registry/{model}/certificates/{number}/{layout}.json"


def certifies(value: Mapping[str, Any], version: Version) -> bool:
    """Return whether a certificate is of this very model, each prompt within its tolerance."""
    rows = (value.get("certificate") or {}).get("prompts") or ()
    return (
        value.get("artifact") == version.artifact.sha256
        and len(rows) > 0
        and all(row["max_abs_difference"] <= row["tolerance"] for row in rows)
    )
