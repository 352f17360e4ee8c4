"""The records of the registry: versions, which never change, and entries of the history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vila_core.errors import Damaged
from vila_core.jsonio import digest, dumps
from vila_core.store import ArtifactRef

MOVES = ("promote", "rollback")
"""Kinds of entries that move an alias."""
NOTES = ("approve", "reject", "withdraw")
"""Kinds of entries about a version that move none; `withdraw` takes an approval back."""


@dataclass(frozen=True)
class Version:
    """One registered model. `evidence` holds the gates' verdicts, `lineage` the tasks behind it."""

    model: str
    number: int
    artifact: ArtifactRef
    run_id: str
    key: str
    metrics: Mapping[str, float]
    evidence: Mapping[str, Any]
    lineage: Mapping[str, Any]
    created_at: str = ""
    created_by: str = ""
    results: str = ""
    """Digest of the artifact with the records of its evaluation; "" in versions without."""
    baseline: str = ""
    """The same, of what it was compared with when it was registered."""
    signature: Mapping[str, Any] | None = None
    """A Sigstore bundle over this record; None where it was made without a key."""
    stored: str = field(default="", repr=False, compare=False)
    """Digest of the record as it was read; "" before it is stored."""

    @property
    def name(self) -> str:
        """`model@number`, as commands take it."""
        return f"{self.model}@{self.number}"

    def digest(self) -> str:
        """Return the digest of the record, without the signature: what signatures are over."""
        return self.stored or _digest_as_read(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return the version as a JSON-able mapping."""
        return _values(self) | {"artifact": self.artifact.as_json()}


@dataclass(frozen=True)
class HistoryEntry:
    """One entry of the history of a model.

    Of the kinds in MOVES, `alias` went from version `before` (None: it is new) to `version`; of
    those in NOTES, somebody said something about `version`, and no alias moved.
    """

    seq: int
    kind: str
    version: int
    alias: str | None
    before: int | None
    who: str
    when: str
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    forced: bool = False
    previous: str = ""
    """Digest of the entry before; "" in the first."""
    version_digest: str = ""
    """Digest of the version's record, which can't be changed unseen then; "" in old entries."""
    signature: Mapping[str, Any] | None = None
    """A Sigstore bundle over this entry; None where it was made without a key."""
    stored: str = field(default="", repr=False, compare=False)
    """Digest of the entry as it was read; "" before it is stored."""

    @property
    def after(self) -> int:
        """The version that the alias went to."""
        return self.version

    @property
    def moves(self) -> bool:
        """Whether an alias moved."""
        return self.kind in MOVES

    def digest(self) -> str:
        """Return the digest that the next entry holds: that of the record without signature."""
        return self.stored or _digest_as_read(self.record())

    def record(self) -> dict[str, Any]:
        """Return what is stored."""
        return _values(self)

    def as_json(self) -> dict[str, Any]:
        """Return the entry as commands tell it: with its digest, and `after` where it moved."""
        return (
            self.record()
            | ({"after": self.version} if self.moves else {})
            | {"digest": self.digest()}
        )


def read_version(data: bytes, place: str, model: str, number: int) -> Version:
    """Return the version in a record. Raises Damaged naming the place and what is wrong."""
    value, stored = _object(data, place)
    artifact = value.get("artifact")
    sha256 = artifact.get("sha256") if isinstance(artifact, dict) else None
    if not isinstance(sha256, str) or not _is_digest(sha256):
        raise Damaged(f"{place}: is not a version: 'artifact' names no digest.{_LOOK}")
    _check(value, place, "a version", _VERSION)
    if (value["model"], value["number"]) != (model, number):
        raise Damaged(
            f"{place}: is the record of {value['model']}@{value['number']}, not of "
            f"{model}@{number}; it was copied or renamed.{_LOOK}"
        )
    known = {one.name for one in fields(Version)}
    kept: dict[str, Any] = {name: found for name, found in value.items() if name in known}
    kept |= {"artifact": ArtifactRef(uri="", sha256=sha256), "stored": stored}
    return Version(**kept)


def read_entry(data: bytes, place: str) -> HistoryEntry:
    """Return the entry in a record. Raises Damaged naming the place and what is wrong.

    Records from before there were kinds have `after` instead of `version`.
    """
    value, stored = _object(data, place)
    if "kind" not in value:
        value = {"kind": "promote", "version": value.get("after"), "forced": False, **value}
    _check(value, place, "an entry of the history", _ENTRY)
    if value["kind"] not in (*MOVES, *NOTES) or (value["kind"] in MOVES and not value["alias"]):
        raise Damaged(f"{place}: is not an entry of the history: kind '{value['kind']}'.{_LOOK}")
    known = {one.name for one in fields(HistoryEntry)}
    kept: dict[str, Any] = {name: found for name, found in value.items() if name in known}
    kept["stored"] = stored
    return HistoryEntry(**kept)


def unsigned(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without its signature."""
    return {name: found for name, found in value.items() if name != "signature"}


def _digest_as_read(value: Mapping[str, Any]) -> str:
    """Return the digest that a record will have once it is read: keys are texts then."""
    return digest(unsigned(json.loads(dumps(value))))


_LOOK = "\n  fix: vila registry verify, and restore the file from a copy of the store."
_NUMBER, _TEXT, _MAP = (int,), (str,), (dict,)
_VERSION: Mapping[str, tuple[type, ...]] = {
    "model": _TEXT, "number": _NUMBER, "run_id": _TEXT, "key": _TEXT, "metrics": _MAP,
    "evidence": _MAP, "lineage": _MAP, "created_at": _TEXT, "created_by": _TEXT,
    "results": _TEXT, "baseline": _TEXT, "certificate": _MAP, "signature": (dict, type(None)),
}  # fmt: skip
_ENTRY: Mapping[str, tuple[type, ...]] = {
    "seq": _NUMBER, "kind": _TEXT, "version": _NUMBER, "alias": (str, type(None)),
    "before": (int, type(None)), "who": _TEXT, "when": _TEXT, "why": _TEXT, "evidence": _MAP,
    "forced": (bool,), "previous": _TEXT, "version_digest": _TEXT, "signature": (dict, type(None)),
}  # fmt: skip
_LATER = {"results", "baseline", "certificate", "signature", "created_at", "created_by", "forced",
          "version_digest"}  # fmt: skip
"""What older records do not have."""


def _values(record: Version | HistoryEntry) -> dict[str, Any]:
    return {one.name: getattr(record, one.name) for one in fields(record) if one.name != "stored"}


def _object(data: bytes, place: str) -> tuple[dict[str, Any], str]:
    """Return the JSON object in a record, and its digest without the signature."""
    try:
        value = json.loads(data)
        if isinstance(value, dict):
            return value, digest(unsigned(value))  # which fails on NaN and half surrogates
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{place}: is not JSON ({error}).{_LOOK}") from None
    raise Damaged(f"{place}: is not a JSON object.{_LOOK}")


def _check(
    value: Mapping[str, Any], place: str, what: str, kinds: Mapping[str, tuple[type, ...]]
) -> None:
    for name, allowed in kinds.items():
        if name not in value and name in _LATER:
            continue
        found = value.get(name, ...)
        if not isinstance(found, allowed) or (isinstance(found, bool) and bool not in allowed):
            raise Damaged(f"{place}: is not {what}: '{name}' is missing or no such value.{_LOOK}")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
