"""Objects as plain values: selected, merged, taken apart."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any


def asked(value: dict[str, Any], query: Mapping[str, str]) -> bool:
    return selected(value, query.get("labelSelector", ""), query.get("fieldSelector", ""))


def selected(value: dict[str, Any], labels: str, fields: str) -> bool:
    have = value["metadata"].get("labels") or {}
    for term in filter(None, re.split(r",(?![^(]*\))", labels)):
        if found := re.fullmatch(r"\s*(\S+)\s+(in|notin)\s+\((.*)\)\s*", term):
            inside = have.get(found[1]) in [word.strip() for word in found[3].split(",")]
            if inside != (found[2] == "in"):
                return False
        elif "!=" in term:
            name, _, wanted = term.partition("!=")
            if have.get(name) == wanted:
                return False
        elif "=" in term:
            name, _, wanted = term.replace("==", "=").partition("=")
            if have.get(name) != wanted:
                return False
        elif (term.lstrip("!") in have) == term.startswith("!"):
            return False
    for term in filter(None, fields.split(",")):
        path, _, wanted = term.partition("=")
        if str(at(value, path.rstrip("!")) or "") == wanted.lstrip("="):
            if path.endswith("!"):
                return False
        elif not path.endswith("!"):
            return False
    return True


def merge(old: Any, new: Any) -> Any:
    """JSON merge patch (RFC 7386); lists of named entries are merged by name, as kubectl's are."""
    if isinstance(old, dict) and isinstance(new, dict):
        result = dict(old)
        for name, value in new.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merge(old.get(name), value)
        return result
    return copy.deepcopy(new)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from leaves(below, f"{path}\0{name}" if path else name)
    else:
        yield path, value


def at(value: Any, path: str) -> Any:
    for name in re.split(r"[\0.]" if "\0" not in path else "\0", path):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def drop(value: dict[str, Any], path: str) -> None:
    *parents, leaf = path.split("\0")
    for name in parents:
        value = value.get(name) or {}
    value.pop(leaf, None)


def bare(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object without what the server itself writes."""
    own = ("uid", "creationTimestamp", "resourceVersion", "generation", "managedFields")
    meta = {name: part for name, part in value.get("metadata", {}).items() if name not in own}
    return {**value, "metadata": meta}


def as_line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
