"""The registry, kept in the store.

    registry/<model>/versions/<n>.json    create-only; n counts up
    registry/<model>/aliases/<alias>.json {"version", "move"}; changed by compare-and-swap
    registry/<model>/history/<seq>.json   create-only; each entry holds the digest of the one before

A move is first written to the history (who gets the number wins), then to the alias file, which is
there for other programs. The history is the truth: what a crash left behind the next move repairs.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from components.registry.users import user_name
from vila_core.errors import AlreadyExists, Conflict, Damaged, NotFound, UserError
from vila_core.jsonio import digest, dumps
from vila_core.store import ArtifactRef, Store, ref_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


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

    @property
    def name(self) -> str:
        """`model@number`, as commands take it."""
        return f"{self.model}@{self.number}"

    def as_json(self) -> dict[str, Any]:
        """Return the version as a JSON-able mapping."""
        return asdict(self)


@dataclass(frozen=True)
class AliasMove:
    """One entry of the history: `alias` went from version `before` (None: new) to `after`."""

    seq: int
    alias: str
    before: int | None
    after: int
    who: str
    when: str
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    previous: str = ""  # digest of the entry before; "" for the first

    def digest(self) -> str:
        """Return the digest that the next entry holds."""
        return digest(asdict(self))


class Registry:
    """The registry of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def models(self) -> list[str]:
        """Return the names of all models."""
        return self._store.children("registry")

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model, oldest first; none for an unknown model."""
        return [self.version(model, number) for number in self._numbers(model, "versions")]

    def version(self, model: str, number: int) -> Version:
        """Return one version. Raises UserError when there is none."""
        try:
            value = json.loads(self._store.read(_place(model, "versions", number)))
        except NotFound:
            known = ", ".join(str(n) for n in self._numbers(model, "versions")) or "none"
            raise UserError(f"{model}@{number}: no such version; versions: {known}.") from None
        value["artifact"] = ref_of(self._store, value["artifact"]["sha256"])
        return Version(**value)

    def resolve(self, name: str) -> Version:
        """Return the version meant by `model@number` or `model@alias`.

        Raises UserError, with the nearest name, for what does not exist.
        """
        model, separator, rest = name.partition("@")
        if not separator or not rest:
            raise UserError(f"{name}: is not a version; use MODEL@NUMBER or MODEL@ALIAS.")
        if model not in self.models():
            raise UserError(
                f"{name}: no model '{model}' is registered{_hint(model, self.models())}"
            )
        if rest.isdigit():
            return self.version(model, int(rest))
        aliases = self.aliases(model)
        if rest not in aliases:
            raise UserError(f"{name}: {model} has no alias '{rest}'{_hint(rest, aliases)}")
        return self.version(model, aliases[rest])

    def register(self, version: Version) -> Version:
        """Store a version under the next number and return it with that number.

        A task that registers again after a crash gets the version that it already made.
        """
        _check_name(version.model, "a model")
        while True:
            known = self.versions(version.model)
            for earlier in known:
                if (earlier.run_id, earlier.key) == (version.run_id, version.key):
                    return earlier
            number = known[-1].number + 1 if known else 1
            value = {
                **version.as_json(),
                "number": number,
                "created_at": _now(),
                "created_by": user_name(),
            }
            try:
                place = _place(version.model, "versions", number)
                self._store.write(place, _json(value), create_only=True)
            except AlreadyExists:
                continue  # somebody took the number
            return self.version(version.model, number)

    def aliases(self, model: str) -> dict[str, int]:
        """Return the version number that each alias of a model stands at."""
        return {move.alias: move.after for move in self.history(model)}

    def move(
        self,
        model: str,
        alias: str,
        to: int,
        *,
        why: str,
        evidence: Mapping[str, Any] | None = None,
        expected: int | str | None = "any",
    ) -> AliasMove:
        """Point an alias at a version and write the history.

        `expected` is the version that the caller believes the alias stands at (None: at none yet);
        "any" moves it from wherever it is. Raises Conflict when it stands elsewhere, UserError for
        an unknown version or a name that is none.
        """
        _check_name(alias, "an alias")
        self.version(model, to)
        while True:
            history = self.history(model)
            before = _standing(history, alias)
            if expected != "any" and before != expected:
                raise Conflict(
                    f"{model}@{alias} stands at version {before}, not {expected}: "
                    "somebody else moved it; look again and decide again."
                )
            move = AliasMove(
                seq=history[-1].seq + 1 if history else 1,
                alias=alias,
                before=before,
                after=to,
                who=user_name(),
                when=_now(),
                why=why,
                evidence=dict(evidence or {}),
                previous=history[-1].digest() if history else "",
            )
            try:
                place = _place(model, "history", move.seq)
                self._store.write(place, _json(asdict(move)), create_only=True)
            except AlreadyExists:
                continue  # another move came first: judge the new state
            latest = {entry.alias: entry for entry in [*history, move]}
            for entry in latest.values():
                self._follow(model, entry)
            return move

    def history(self, model: str) -> list[AliasMove]:
        """Return all moves, oldest first. Raises Damaged when the chain is broken."""
        moves = [
            AliasMove(**json.loads(self._store.read(_place(model, "history", number))))
            for number in self._numbers(model, "history")
        ]
        digests = ["", *(move.digest() for move in moves)]
        for number, (move, previous) in enumerate(zip(moves, digests, strict=False), start=1):
            if move.previous != previous or move.seq != number:
                raise Damaged(
                    f"registry/{model}/history: entry {move.seq} does not follow the one before; "
                    "an entry was changed or removed."
                )
        return moves

    def _follow(self, model: str, move: AliasMove) -> None:
        """Bring the alias up to a move, unless it is there or past it."""
        place = f"registry/{model}/aliases/{move.alias}.json"
        while True:
            tag = self._store.etag(place)
            if tag is not None and json.loads(self._store.read(place))["seq"] >= move.seq:
                return
            try:
                value = {"version": move.after, "seq": move.seq}
                self._store.swap(place, _json(value), expected=tag)
            except Conflict:
                continue
            return

    def _numbers(self, model: str, kind: str) -> list[int]:
        names = self._store.children(f"registry/{model}/{kind}")
        return sorted(int(name.removesuffix(".json")) for name in names)


def _standing(history: list[AliasMove], alias: str) -> int | None:
    return next((move.after for move in reversed(history) if move.alias == alias), None)


def _place(model: str, kind: str, number: int) -> str:
    return f"registry/{model}/{kind}/{number}.json"


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name) or name.isdigit():
        raise UserError(
            f"'{name}' can't name {what}: use lower-case letters, digits, '.', '_' and '-'."
        )


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; there are: {', '.join(sorted(known))}." if known else "; there are none yet."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _json(value: Mapping[str, Any]) -> bytes:
    return (dumps(value, indent=1) + "\n").encode()
