"""The cache of task results, addressed by what made them: config, inputs and code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.runtime.code import code_digest, lock_digest
from components.runtime.secrets import mask
from vila_core.config import Frozen
from vila_core.data.location import manifest_digests
from vila_core.data.raw import state_of
from vila_core.errors import Damaged, NotFound
from vila_core.fingerprint import fingerprint
from vila_core.jsonio import digest, dumps
from vila_core.store import ArtifactRef, Store, ref_of, verify


@dataclass(frozen=True)
class TaskKey:
    """The digest that names a result, and the parts it was made from (for `vila why`)."""

    key: str
    parts: Mapping[str, Any]  # stage, config, inputs, code {digest, files}, lock


@dataclass(frozen=True)
class CacheEntry:
    """A stored result: where it came from and what it holds."""

    key: str
    outputs: Mapping[str, ArtifactRef]
    metrics: Mapping[str, float | None]
    run_id: str
    task: str


def task_key(stage: str, module: str, config: Frozen, inputs: Mapping[str, str]) -> TaskKey:
    """Return the key of a task: `module` holds the stage, `inputs` are sha256 by name."""
    code = code_digest(module)
    parts = {
        "stage": stage,
        "config": config.cache_key(),
        "inputs": dict(inputs),
        "lock": lock_digest(),
    }
    outside = {str(place): _state(place) for place in config.outside()}
    if outside:
        parts["outside"] = outside
    full = {**parts, "code": {"digest": code.digest, "files": dict(code.files)}}
    return TaskKey(digest({**parts, "code": code.digest}), full)


def _state(place: Path | str) -> str:
    """Return what changes with what lies there. Raises StoreError for a store that can't be read.

    Manifests name the content of every shard, so of corpora in a store they tell all; of raw
    files there, their tags do.
    """
    if isinstance(place, Path):
        return fingerprint(place)
    found = manifest_digests(place)
    return digest(found) if found else state_of(place)


def look_up(store: Store, key: str) -> CacheEntry | None:
    """Return the result for `key`, or None when there is none or its artifacts are not whole."""
    try:
        entry = json.loads(store.read(_place(key)))
        # By digest: a store that was moved has other URIs, and the same artifacts.
        outputs = {name: ref_of(store, value["sha256"]) for name, value in entry["outputs"].items()}
        for ref in outputs.values():
            verify(store, ref)
    except (NotFound, Damaged):
        return None
    return CacheEntry(key, outputs, entry["metrics"], entry["run_id"], entry["task"])


def save(store: Store, entry: CacheEntry, key: TaskKey) -> None:
    """Store a result; the latest wins, as an earlier one was found damaged."""
    value = {
        "outputs": {name: ref.as_json() for name, ref in entry.outputs.items()},
        "metrics": dict(entry.metrics),
        "run_id": entry.run_id,
        "task": entry.task,
        "key_parts": mask(key.parts),
    }
    store.write(_place(key.key), dumps(value).encode())


def _place(key: str) -> str:
    return f"cache/{key}.json"
