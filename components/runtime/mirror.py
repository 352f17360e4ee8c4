"""Checkpoints in the store: while a task trains on another machine's disk, and those that stay.

    checkpoints/<task key>/step-N/{weights-*,optimizer-*}.safetensors state.json manifest.json

In a directory store the work folder is in the store already; only what stays is moved here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vila_core.errors import StoreError
from vila_core.store import Store, open_store
from vila_core.store.artifacts import MANIFEST


@dataclass(frozen=True)
class StoreMirror:
    """The `Mirror` of a task in a remote store. Holds no connection, so it can be pickled."""

    uri: str
    key: str

    def steps(self) -> list[int]:
        """See `Mirror`."""
        return sorted(step for step, files in self._found().items() if MANIFEST in files)

    def push(self, step: int, folder: Path) -> None:
        """See `Mirror`."""
        store = open_store(self.uri)
        self.clear(lambda other, complete: other == step or (other < step and not complete))
        manifest = json.loads((folder / MANIFEST).read_bytes())
        digests = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
            name = f"{self._place(step)}/{path.name}"
            store.upload(name, path, sha256=digests.get(path.name))

    def pull(self, step: int, folder: Path) -> None:
        """See `Mirror`."""
        store = open_store(self.uri)
        for name in store.children(self._place(step)):
            store.download(f"{self._place(step)}/{name}", folder / name)

    def remove(self, step: int) -> None:
        """See `Mirror`."""
        store = open_store(self.uri)
        names = store.children(self._place(step))
        for name in sorted(names, key=lambda name: (name != MANIFEST, name)):
            store.delete(f"{self._place(step)}/{name}")

    def clear(self, unwanted: Callable[[int, bool], bool]) -> None:
        """Remove checkpoints by step and completeness, and all that interrupted pushes have left.

        A push of another process that is still going on begins anew then.
        """
        with contextlib.suppress(StoreError):  # one may have no right to that
            open_store(self.uri).abort_uploads(f"{checkpoints_of(self.key)}/")
        for step, files in self._found().items():
            if unwanted(step, MANIFEST in files):
                self.remove(step)

    def _found(self) -> dict[int, set[str]]:
        """Return the names of the files of each step, complete or not."""
        found: dict[int, set[str]] = {}
        for name in open_store(self.uri).list(f"{checkpoints_of(self.key)}/"):
            *_, folder, file = name.split("/")
            step = folder.removeprefix("step-")
            if step.isdigit():
                found.setdefault(int(step), set()).add(file)
        return found

    def _place(self, step: int) -> str:
        return f"{checkpoints_of(self.key)}/step-{step}"


def checkpoints_of(key: str) -> str:
    """Return the store's folder for the checkpoints of a task key."""
    return f"checkpoints/{key}"


def mirror_of(store: Store, key: str) -> StoreMirror | None:
    """Return the mirror of a task, None where its work folder is in the store."""
    return None if store.local_path(checkpoints_of(key)) else StoreMirror(store.uri, key)


def settle(store: Store, key: str, work: Path, keep_every: int) -> None:
    """After success, leave in the store the checkpoints that stay for ever, and no others."""
    mirror = StoreMirror(store.uri, key)  # nodes use it with a directory store too
    mirror.clear(lambda step, complete: not (complete and _stays(step, keep_every)))
    folder = store.local_path(checkpoints_of(key))
    if folder is None:
        return
    for path in (work / "checkpoints").glob("step-*"):
        step = path.name.removeprefix("step-")
        if step.isdigit() and _stays(int(step), keep_every):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder / path.name, ignore_errors=True)  # of an earlier computation
            path.rename(folder / path.name)


def _stays(step: int, keep_every: int) -> bool:
    return keep_every > 0 and step % keep_every == 0
