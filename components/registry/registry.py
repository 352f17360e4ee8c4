"""The registry, kept in the store.

    registry/<model>/versions/<n>.json    create-only; n counts up
    registry/<model>/aliases/<alias>.json {"version", "seq"}; changed by compare-and-swap
    registry/<model>/history/<seq>.json   create-only; each entry holds the digest of the one before
    registry/<model>/signatures/…         those that were made after the record

Records are signed where this user has a key (`keys.py`).

A move is first written to the history (who gets the number wins), then to the alias file, which is
there for other programs. The history is the truth: what a crash left behind the next move repairs.
"""

from __future__ import annotations

import difflib
import itertools
import json
import random
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from components.registry.history import entry_place, last_decision, numbers_in, read_history
from components.registry.records import MOVES, NOTES, HistoryEntry, Version, read_version
from components.registry.signing import of_entry, of_version, signature_of
from components.registry.users import user_name
from vila_core.errors import AlreadyExists, Conflict, NotFound, UserError
from vila_core.jsonio import dumps
from vila_core.store import Store, ref_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Registry:
    """The registry of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def models(self) -> list[str]:
        """Return the names of all models."""
        return self._store.children("registry")

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model, oldest first; none for an unknown model."""
        return [self.version(model, number) for number in self._numbers(model)]

    def version(self, model: str, number: int) -> Version:
        """Return one version. Raises UserError when there is none, Damaged for a bad record."""
        place = _place(model, number)
        try:
            version = read_version(self._store.read(place), place, model, number)
        except NotFound:
            known = ", ".join(str(n) for n in self._numbers(model)) or "none"
            raise UserError(f"{model}@{number}: no such version; versions: {known}.") from None
        return replace(version, artifact=ref_of(self._store, version.artifact.sha256))

    def resolve(self, name: str, entries: list[HistoryEntry] | None = None) -> Version:
        """Return the version meant by `model@number` or `model@alias`.

        `entries` is the history of the model, where it was read already. Raises UserError, with the
        nearest name, for what does not exist.
        """
        model, separator, rest = name.partition("@")
        if not separator or not rest:
            raise UserError(f"{name}: is not a version; use MODEL@NUMBER or MODEL@ALIAS.")
        if model not in self.models():
            raise UserError(
                f"{name}: no model '{model}' is registered{_hint(model, self.models())}"
            )
        if rest.isascii() and rest.isdigit() and len(rest) < 13:
            return self.version(model, int(rest))
        aliases = _standing(self.history(model) if entries is None else entries)
        if rest not in aliases:
            raise UserError(f"{name}: {model} has no alias '{rest}'{_hint(rest, aliases)}")
        return self.version(model, aliases[rest].version)

    def register(self, version: Version) -> Version:
        """Store a version under the next number and return it with that number.

        A task that registers again after a crash gets the version that it already made.
        """
        check_name(version.model, "a model")
        while True:
            known = self.versions(version.model)
            for earlier in known:
                if (earlier.run_id, earlier.key) == (version.run_id, version.key):
                    return earlier
            number = known[-1].number + 1 if known else 1
            made = replace(version, number=number, created_at=_now(), created_by=user_name())
            made = replace(made, signature=None, stored="")
            made = replace(made, signature=signature_of(of_version(made)))
            try:
                place = _place(version.model, number)
                self._store.write(place, _json(made.as_json()), create_only=True)
            except AlreadyExists:
                continue  # somebody took the number
            return self.version(version.model, number)

    def aliases(self, model: str) -> dict[str, int]:
        """Return the version number that each alias of a model stands at."""
        return {alias: entry.version for alias, entry in _standing(self.history(model)).items()}

    def move(
        self,
        model: str,
        alias: str,
        to: int,
        *,
        why: str,
        who: str | None = None,
        kind: str = "promote",
        evidence: Mapping[str, Any] | None = None,
        forced: bool = False,
        expected: int | str | None = "any",
    ) -> HistoryEntry:
        """Point an alias at a version and write the history.

        `expected` is the version that the caller believes the alias stands at (None: at none yet);
        "any" moves it from wherever it is. Raises Conflict when it stands elsewhere, UserError for
        an unknown version, a name that is none, a version that was rejected and not approved since
        (unless `forced`), and for a rollback or a forced move without a reason.
        """
        if kind not in MOVES:
            raise ValueError(f"kind '{kind}' moves no alias")
        check_name(alias, "an alias")
        if kind == "rollback" or forced:
            _check_reason(why, f"{model}@{alias}", "a rollback" if kind == "rollback" else "force")
        version = self.version(model, to)
        for attempt in itertools.count():
            history = self.history(model)
            standing = _standing(history)
            before = standing[alias].version if alias in standing else None
            if expected != "any" and before != expected:
                raise Conflict(
                    f"{model}@{alias} stands at version {before}, not {expected}: "
                    "somebody else moved it; look again and decide again."
                )
            decision = last_decision(history, to)
            if decision and decision.kind == "reject" and not forced:
                raise UserError(
                    f"{model}@{to} was rejected by {decision.who}: {decision.why}\n"
                    f"  fix: vila registry approve {model}@{to} --why …, or another version."
                )
            entry = _next(history, kind, version, alias, who, why, evidence)
            entry = replace(entry, before=before, forced=forced)
            if done := self._append(model, entry):
                for latest in {**standing, alias: done}.values():
                    self._follow(model, latest)
                return done
            _let_others(attempt)
        raise AssertionError("somebody else can't come first for ever")

    def note(
        self,
        model: str,
        kind: str,
        version: int,
        *,
        why: str,
        who: str | None = None,
        evidence: Mapping[str, Any] | None = None,
        alias: str | None = None,
    ) -> HistoryEntry:
        """Write an approval or a rejection of a version into the history; no alias moves.

        `alias` limits it to promotions to that alias. Raises UserError for an unknown version and
        without a reason.
        """
        if kind not in NOTES:
            raise ValueError(f"kind '{kind}' is not one of {', '.join(NOTES)}")
        _check_reason(why, f"{model}@{version}", f"to {kind} a version")
        about = self.version(model, version)
        for attempt in itertools.count():
            entry = _next(self.history(model), kind, about, alias, who, why, evidence)
            if done := self._append(model, entry):
                return done
            _let_others(attempt)
        raise AssertionError("somebody else can't come first for ever")

    def history(self, model: str) -> list[HistoryEntry]:
        """Return all entries, oldest first. Raises Damaged when the chain is broken."""
        return read_history(self._store, model)

    def _append(self, model: str, entry: HistoryEntry) -> HistoryEntry | None:
        """Sign and write the next entry; return None if somebody else's came first."""
        signed = replace(entry, signature=signature_of(of_entry(model, entry)))
        try:
            place = entry_place(model, entry.seq)
            self._store.write(place, _json(signed.record()), create_only=True)
        except AlreadyExists:
            return None  # the new state must be judged
        return signed

    def _follow(self, model: str, entry: HistoryEntry) -> None:
        """Bring the alias up to an entry, unless it is there or past it."""
        place = f"registry/{model}/aliases/{entry.alias}.json"
        value = _json({"version": entry.version, "seq": entry.seq})
        while True:
            tag = self._store.etag(place)
            if tag is not None and _seq(self._store.read(place)) >= entry.seq:
                return
            try:
                self._store.swap(place, value, expected=tag)
            except Conflict:
                continue
            return

    def _numbers(self, model: str) -> list[int]:
        return numbers_in(self._store.children(f"registry/{model}/versions"))


def _let_others(attempt: int) -> None:
    """Wait a random while, the longer the more often somebody else came first."""
    time.sleep(random.uniform(0, min(1.0, 0.02 * 2 ** min(attempt, 10))))


def _next(
    history: list[HistoryEntry],
    kind: str,
    version: Version,
    alias: str | None,
    who: str | None,
    why: str,
    evidence: Mapping[str, Any] | None,
) -> HistoryEntry:
    """Return the entry that follows a history, not signed yet."""
    return HistoryEntry(
        seq=len(history) + 1,
        kind=kind,
        version=version.number,
        alias=alias,
        before=None,
        who=who or user_name(),
        when=_now(),
        why=why,
        evidence=dict(evidence or {}),
        previous=history[-1].digest() if history else "",
        version_digest=version.digest(),
    )


def _standing(history: list[HistoryEntry]) -> dict[str, HistoryEntry]:
    """Return the entry that each alias stands by."""
    return {entry.alias: entry for entry in history if entry.moves and entry.alias}


def _seq(alias: bytes) -> int:
    """Return the entry that an alias file was written for; 0 for a file that is none."""
    try:
        return int(json.loads(alias)["seq"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _place(model: str, number: int) -> str:
    return f"registry/{model}/versions/{number}.json"


def _check_reason(why: str, name: str, what: str) -> None:
    if not why.strip():
        raise UserError(f"{name}: {what} needs a reason; fix: --why TEXT.")


def check_name(name: str, what: str) -> None:
    """Raise UserError unless `name` can name a model or an alias, which `what` says."""
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
