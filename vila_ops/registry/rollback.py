"""Back to the version before; approve, reject: each an entry of the history, with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from components.registry import HistoryEntry, Registry, Version
from components.registry.gates.approvals import approvers, rejection
from vila_core.errors import Conflict, UserError
from vila_core.store import Store
from vila_ops.registry.outbox import enqueue


def rollback(
    store: Store,
    model: str,
    alias: str,
    *,
    why: str,
    who: str,
    to: int | None = None,
    force: bool = False,
    expected: int | None = None,
) -> HistoryEntry:
    """Move an alias back: to the version before it, or to version `to`.

    Versions that were rolled back from, and rejected ones, are passed over. Raises UserError where
    there is nothing to go back to, without a reason, and for a rejected `to` unless `force`, which
    marks the entry for ever; Conflict where the alias moves at the same time, or does not stand at
    `expected` (where that is given) any more.
    """
    registry = Registry(store)
    name = f"{model}@{alias}"
    _check_reason(why, name, "a rollback")
    history = registry.history(model)
    trail = _trail(history, alias)
    if not trail:
        known = ", ".join(sorted(registry.aliases(model))) or "none"
        raise UserError(f"{name}: there is no such alias; {model} has: {known}.")
    if expected not in (None, trail[-1]):
        raise Conflict(
            f"{name} stands at version {trail[-1]}, not {expected}: somebody else moved it; look "
            "again and decide again."
        )
    if to is None:
        to = _before(history, trail, name)
    elif to == trail[-1]:
        raise UserError(f"{name} stands at version {to} already; nothing was moved.")
    rejected = rejection(history, to)
    if rejected and not force:
        raise UserError(
            f"{model}@{to} was rejected by {rejected.who}: {rejected.why}\n"
            f"  fix: another version; or --force, which is marked for ever."
        )
    entry = registry.move(
        model,
        alias,
        to,
        why=why,
        who=who,
        kind="rollback",
        evidence={"from": trail[-1], "to": to},
        forced=force and rejected is not None,
        expected=trail[-1],
    )
    enqueue(store, model, entry)
    return entry


def approve(store: Store, name: str, *, why: str, who: str) -> HistoryEntry:
    """Note that `who` approves a version (`MODEL@NUMBER` or `MODEL@ALIAS`). Raises UserError."""
    return _note(store, "approve", name, why, who)


def reject(store: Store, name: str, *, why: str, who: str) -> HistoryEntry:
    """Note that a version must not be promoted, until somebody approves it. Raises UserError."""
    return _note(store, "reject", name, why, who)


def withdraw(store: Store, name: str, *, why: str, who: str) -> HistoryEntry:
    """Take back an approval of `who`'s. Raises UserError where there is none."""
    registry = Registry(store)
    version = registry.resolve(name)
    if who not in approvers(registry.history(version.model), version.number):
        raise UserError(f"{version.name}: {who} has not approved it; nothing to withdraw.")
    return _note(store, "withdraw", name, why, who)


def _note(store: Store, kind: str, name: str, why: str, who: str) -> HistoryEntry:
    _check_reason(why, name, {"approve": "an approval", "reject": "a rejection"}.get(kind, kind))
    version: Version = Registry(store).resolve(name)
    entry = Registry(store).note(version.model, kind, version.number, why=why, who=who)
    enqueue(store, version.model, entry)
    return entry


def target(history: Sequence[HistoryEntry], alias: str, name: str) -> int:
    """Return the version that `rollback` goes to by itself. Raises UserError where there is none.

    `name` is what the alias is called in messages.
    """
    trail = _trail(history, alias)
    if not trail:
        raise UserError(f"{name}: there is no such alias.")
    return _before(history, trail, name)


def _trail(history: Sequence[HistoryEntry], alias: str) -> list[int]:
    """Return the versions that the alias came over, the present one last.

    A rollback takes away what it went back from, so that the next one goes further back.
    """
    trail: list[int] = []
    for entry in history:
        if entry.alias != alias or not entry.moves:
            continue
        if entry.kind == "rollback" and entry.version in trail:
            while trail[-1] != entry.version:
                trail.pop()
        elif not trail or trail[-1] != entry.version:
            trail.append(entry.version)
    return trail


def _before(history: Sequence[HistoryEntry], trail: Sequence[int], name: str) -> int:
    for number in reversed(trail[:-1]):
        if number != trail[-1] and not rejection(history, number):
            return number
    raise UserError(
        f"{name} stands at version {trail[-1]}, and there is none before it to go back to; "
        "fix: --to NUMBER."
    )


def _check_reason(why: str, name: str, what: str) -> None:
    if not why.strip():
        raise UserError(f"{name}: {what} needs a reason; fix: --why TEXT.")
