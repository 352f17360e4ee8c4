"""Every file of an artifact against its digest; all that are wrong are told, not the first."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from vila_core.errors import Damaged, NotFound
from vila_core.store import Store

PARALLEL = 4
"""Files that are read at a time."""
_FIX = (
    "remove the artifact's folder and publish the same content again (run the task that made it), "
    "or restore it from a copy of the store"
)


@dataclass(frozen=True)
class Wrong:
    """A file that is not as its manifest says: its key, what is wrong, and what to do."""

    key: str
    what: str
    fix: str = _FIX


@dataclass
class Checked:
    """How much was read, and what is wrong."""

    files: int = 0
    bytes: int = 0
    wrong: list[Wrong] = field(default_factory=list)


def check_artifact(store: Store, sha256: str) -> Checked:
    """Read all files of an artifact. Raises Unreachable where the store does not answer."""
    checked = Checked()
    lead = f"artifacts/{sha256}/"
    place = f"{lead}manifest.json"
    try:
        data = store.read(place)
    except NotFound:
        checked.wrong.append(Wrong(place, "is missing: there is no such artifact"))
        return checked
    if hashlib.sha256(data).hexdigest() != sha256:
        checked.wrong.append(Wrong(place, "was changed: it does not match the artifact's digest"))
        return checked
    entries = _entries(data)
    if entries is None:
        checked.wrong.append(Wrong(place, "is not a manifest"))
        return checked
    with ThreadPoolExecutor(PARALLEL) as pool:
        for (path, _), (size, wrong) in zip(
            entries.items(),
            pool.map(lambda item: _check(store, lead + item[0], item[1]), entries.items()),
            strict=True,
        ):
            checked.files += 1
            checked.bytes += size
            if wrong:
                checked.wrong.append(Wrong(lead + path, wrong))
    for key in store.list(lead):
        if key != place and key.removeprefix(lead) not in entries:
            checked.wrong.append(
                Wrong(key, "is not in the manifest: it was put there", "remove it")
            )
    return checked


def _entries(manifest: bytes) -> dict[str, str] | None:
    """Return the digest of each file, None where it is not a manifest (the digest is its own)."""
    try:
        files: Any = json.loads(manifest)["files"]
        return {str(entry["path"]): str(entry["sha256"]) for entry in files}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _check(store: Store, key: str, sha256: str) -> tuple[int, str]:
    """Return the size of a file, and what is wrong with it."""
    found, size = hashlib.sha256(), 0
    try:
        for chunk in store.chunks(key):
            found.update(chunk)
            size += len(chunk)
    except NotFound:
        return 0, "is missing"
    except ValueError:
        return 0, "is not a key of a store"
    except Damaged:
        return size, "was changed: it does not match its digest"
    if found.hexdigest() != sha256:
        return size, "was changed: it does not match its digest"
    return size, ""
