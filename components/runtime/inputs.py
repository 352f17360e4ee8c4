"""A task's inputs as local folders, or where they are read from without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from vila_core.config import Frozen
from vila_core.store import Store, fetch, ref_of

ConfigT = TypeVar("ConfigT", bound=Frozen)


def fetch_inputs(
    store: Store, config: ConfigT, digests: Mapping[str, str]
) -> tuple[ConfigT, dict[str, Path]]:
    """Fetch the artifacts that `config` does not stream; return the config to run with, and them.

    `digests` are sha256 by name. Raises NotFound, Damaged.
    """
    remote = store.local_path("") is None
    uris = {name: ref_of(store, sha256).uri for name, sha256 in digests.items()}
    resolved, left = config.streamed(uris if remote else {})
    folders = {
        name: fetch(store, ref_of(store, sha256))
        for name, sha256 in digests.items()
        if name not in left
    }
    return resolved, folders  # pyright: ignore[reportReturnType]  (`streamed` keeps the class)
