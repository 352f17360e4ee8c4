"""What source files say, remembered between processes in VILA_CACHE.

To parse hundreds of files takes longer than all else in a command that finds its results in the
cache. A fact is kept under the digest of the file's content and the module's name, which are all
that it hangs on: it can't be out of date. What can't be read or written is no matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vila_core.store.artifacts import cache_folder

MOST = 4096
"""So many are kept; beyond, only those of the process that saves."""

Fact = Sequence[Any]


class FactFile:
    """Facts by key in one JSON file, which is that of one version of the code that finds them."""

    def __init__(self, finder: Path) -> None:
        version = hashlib.sha256(finder.read_bytes()).hexdigest()[:16]
        self._path = cache_folder() / "code" / f"facts-{version}.json"
        self._kept = self._load()
        self._used: dict[str, Fact] = {}
        self._new = False

    def get(self, key: str, find: Callable[[], Fact]) -> Fact:
        """Return the fact of that key, found now if it isn't known."""
        fact = self._kept.get(key)
        if fact is None:
            fact = find()
            self._new = True
        self._kept[key] = self._used[key] = fact
        return fact

    def save(self) -> None:
        """Write what is new, beside and then by one rename; another process's news may be lost."""
        if not self._new:
            return
        self._new = False
        facts = self._load() | self._kept
        if len(facts) > MOST:
            facts = self._used
        aside = self._path.with_name(f"{uuid.uuid4().hex}.tmp")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(facts), encoding="utf-8")
            aside.replace(self._path)
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)

    def _load(self) -> dict[str, Fact]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
