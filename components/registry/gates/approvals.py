"""Who approved a version, and who rejected it."""

from __future__ import annotations

from collections.abc import Sequence

from components.registry import HistoryEntry, Registry
from components.registry.gates.candidate import Candidate
from components.registry.gates.verdict import Verdict
from components.registry.history import last_decision
from components.registry.records import NOTES


def approvers(history: Sequence[HistoryEntry], version: int) -> list[str]:
    """Return who approves a version: whose latest word on it is an approval."""
    words = {
        entry.who: entry.kind
        for entry in history
        if entry.version == version and entry.kind in NOTES
    }
    return [who for who, kind in words.items() if kind == "approve"]


def rejection(history: Sequence[HistoryEntry], version: int) -> HistoryEntry | None:
    """Return the entry by which a version stands rejected; None if it doesn't."""
    decision = last_decision(history, version)
    return decision if decision and decision.kind == "reject" else None


def rejection_verdicts(candidate: Candidate) -> list[Verdict]:
    """Return a failed verdict if the version stands rejected: no file of gates need ask that."""
    if candidate.version is None:
        return []
    version = candidate.version
    found = rejection(Registry(candidate.store).history(version.model), version.number)
    if found is None:
        return []
    text = f"{version.name} was rejected by {found.who}: {found.why}"
    details = {
        "gate": "not rejected",
        "found": f"rejected by {found.who}: {found.why}",
        "asked": "no rejection that stands",
        "rejected": {"who": found.who, "when": found.when, "why": found.why, "seq": found.seq},
        "fix": f"vila registry approve {version.name} --why TEXT, or another version",
    }
    return [Verdict(False, text, None, "approvals", details)]
