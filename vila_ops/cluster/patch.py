"""Patches of Kubernetes objects as kustomize applies them: strategic merge (of maps), JSON 6902."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from vila_core.errors import UserError

Manifest = dict[str, Any]


def merge(target: Any, patch: Any, where: str, path: str = "") -> Any:
    """Return `target` with `patch` merged in: maps deeply, null removes, the rest replaces.

    Lists of maps are refused with UserError: what they do depends on each field's merge key, and a
    JSON 6902 patch says the same plainly.
    """
    if isinstance(patch, Mapping):
        merged = dict(target) if isinstance(target, Mapping) else {}
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(merged.get(key), value, where, f"{path}/{key}")
        return merged
    if isinstance(patch, list) and any(isinstance(item, Mapping) for item in patch):
        raise UserError(f"{where}: {path}: write this list as a JSON 6902 patch (op, path, value).")
    return copy.deepcopy(patch)


def apply_operations(target: Manifest, operations: Sequence[Mapping[str, Any]], where: str) -> None:
    """Apply JSON 6902 operations (add, replace, remove) in place. Raises UserError."""
    for operation in operations:
        name, pointer = operation.get("op"), str(operation.get("path", ""))
        *parents, last = [
            step.replace("~1", "/").replace("~0", "~") for step in pointer.lstrip("/").split("/")
        ]
        try:
            parent: Any = target
            for step in parents:
                parent = parent[_index(parent, step)]
            if name == "add":
                _add(parent, last, copy.deepcopy(operation["value"]))
            elif name == "replace":
                index = _index(parent, last)
                _ = parent[index]
                parent[index] = copy.deepcopy(operation["value"])
            elif name == "remove":
                del parent[_index(parent, last)]
            else:
                raise UserError(f"{where}: op: {name}: known are add, replace, remove.")
        except (KeyError, IndexError, ValueError, TypeError):
            kind, title = target.get("kind"), target.get("metadata", {}).get("name")
            raise UserError(
                f"{where}: {name} {pointer}: {kind} {title} has no such path."
            ) from None


def _add(parent: Any, last: str, value: Any) -> None:
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        parent[last] = value


def _index(parent: Any, step: str) -> Any:
    return int(step) if isinstance(parent, list) else step
