"""Raw corpora that lie in a store: copied to this machine before they are read.

Shards are streamed; raw corpora are read once, by readers that seek in zips, tars and tables. So
they are brought here whole, several files at a time. What is here already is not fetched again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vila_core.errors import UserError
from vila_core.jsonio import digest
from vila_core.store import Store, open_store

_THREADS = 8


def is_remote(place: str) -> bool:
    """Return whether `place` is the URI of a store (`s3://…`, `file://…`), not a path."""
    return "://" in place


def state_of(uri: str) -> str:
    """Return what changes with names and contents below a URI, "missing" if there is nothing.

    Raises StoreError for a store that can't be read.
    """
    if _is_file(uri):
        parent, _, name = uri.rpartition("/")
        return digest([[name, open_store(parent).etag(name)]])
    found = [[key, tag] for key, tag in open_store(uri).etags()]
    return digest(found) if found else "missing"


def bring(uri: str, folder: Path, told: Callable[[int, int], None] = lambda done, of: None) -> Path:
    """Copy a file, or all below a URI, into `folder`; return where it is now.

    A file appears whole or not at all; those of an earlier call are kept, so `folder` must be one
    for this content alone. `told` hears how many files are here, and of how many. Raises UserError
    when there is nothing, StoreError for a store that can't be read.
    """
    store, keys = _found(uri)
    if not keys:
        raise UserError(f"{uri}: there is no such object, and none below it")
    single = _is_file(uri)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [key for key in keys if not (folder / key).exists()]
    told(len(keys) - len(todo), len(keys))
    with ThreadPoolExecutor(_THREADS) as threads:
        for count, _ in enumerate(threads.map(lambda key: _fetch(store, key, folder), todo), 1):
            told(len(keys) - len(todo) + count, len(keys))
    return folder / keys[0] if single else folder


def beside(uri: str, name: str) -> str | None:
    """Return the URI of the folder `name` beside the file `uri`, None if nothing is in it."""
    if not _is_file(uri):
        return None
    other = f"{uri.rpartition('/')[0]}/{name}"
    return other if _found(other)[1] else None


def _fetch(store: Store, key: str, folder: Path) -> None:
    target = folder / key
    if ".." in Path(key).parts or not target.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{store.uri}/{key}: the name leads out of the folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    store.download(key, target)


def _found(uri: str) -> tuple[Store, list[str]]:
    """Return a store and the keys in it that `uri` means: those below it, or the file itself."""
    if _is_file(uri):
        parent, _, name = uri.rpartition("/")
        return open_store(parent), [name]
    store = open_store(uri)
    return store, list(store.list())


def _is_file(uri: str) -> bool:
    parent, _, name = uri.rstrip("/").rpartition("/")
    if parent.endswith("//") or "://" not in parent:  # a bucket
        return False
    store = open_store(parent)
    local = store.local_path(name)
    return local.is_file() if local is not None else store.etag(name) is not None
