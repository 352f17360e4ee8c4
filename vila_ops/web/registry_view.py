"""The registry as pages and the API show it: read anew each time, and never all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from components.registry import HistoryEntry, Registry, Version
from components.registry.certificates import certificates as exports
from components.registry.certificates import certifies
from components.registry.gates.approvals import approvers, rejection
from components.registry.history import entry_place, numbers_in
from components.registry.records import read_entry
from components.registry.registry import check_name
from components.registry.verify import Finding, check, verified_version
from components.runtime.secrets import mask
from vila_core.errors import Damaged, NotFound, UserError, VilaError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_ops.registry.outbox import Status
from vila_ops.run_index import finite
from vila_ops.web.interval import interval, scale

PAGE_ROWS = 50
MOST_FILES = 500
MOST_CERTIFICATES = 20
MOST_TEXT = 60_000
MOST_FINDINGS = 50


_TOLD_ELSEWHERE = ("gate", "asked", "found", "fix", *("null", "units", "level", "power", "test"))


@dataclass(frozen=True)
class Standing:
    """Where an alias stands, the entry that brought it there, and all moves to that version."""

    alias: str
    version: int
    entry: HistoryEntry
    moves: Sequence[HistoryEntry]

    @property
    def passed(self) -> bool | None:
        """What the gates said last of the version; None where none were asked."""
        said = [passed(one.evidence) for one in self.moves]
        return next((one for one in reversed(said) if one is not None), None)

    @property
    def forced(self) -> bool:
        """Whether any alias was ever forced to the version: that mark stays."""
        return any(one.forced for one in self.moves)


@dataclass(frozen=True)
class Past:
    """The history of a model; if it is `broken` (which says why), what is left of it."""

    entries: Sequence[HistoryEntry]
    broken: str = ""

    @property
    def standing(self) -> list[Standing]:
        """Where the aliases stand; nowhere where the history is broken."""
        if self.broken:
            return []
        latest = {entry.alias: entry for entry in self.entries if entry.moves and entry.alias}
        return [
            Standing(
                alias,
                entry.version,
                entry,
                [one for one in self.entries if one.moves and one.version == entry.version],
            )
            for alias, entry in sorted(latest.items())
        ]

    def aliases_of(self, number: int) -> list[str]:
        """Return the aliases that stand at a version."""
        return [one.alias for one in self.standing if one.version == number]

    def decision(self, number: int) -> str:
        """Return rejected, approved or nothing."""
        if self.broken:
            return ""
        if rejection(self.entries, number):
            return "rejected"
        return "approved" if approvers(self.entries, number) else ""

    def forced(self, number: int) -> list[HistoryEntry]:
        """Return the moves to a version that were forced."""
        return [one for one in self.entries if one.moves and one.forced and one.version == number]


@dataclass(frozen=True)
class Row:
    """A version in a table; `problem` where its record can't be read."""

    number: int
    version: Version | None
    aliases: Sequence[str]
    decision: str
    forced: bool
    problem: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the gates passed when it was registered; None where none were asked."""
        return passed(self.version.evidence) if self.version else None


@dataclass(frozen=True)
class Summary:
    """A model in the list of models."""

    name: str
    count: int
    newest: int | None
    past: Past
    problem: str = ""


@dataclass(frozen=True)
class File:
    """A file of an artifact."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Paired:
    """A difference from the present version on one benchmark, in points of 100."""

    benchmark: str
    questions: float | None
    this: float | None
    present: float | None
    low: float
    difference: float
    high: float
    above: float
    p: float | None
    detectable: float | None


@dataclass(frozen=True)
class PairedRow:
    """A verdict of a paired test in a table, drawn on the table's scale."""

    verdict: Verdict
    numbers: Paired
    svg: Markup


@dataclass(frozen=True)
class Verdicts:
    """What all gates found: paired tests by kind, with what is asked, and the others."""

    others: Sequence[Verdict]
    paired: Sequence[tuple[str, Sequence[PairedRow]]]

    def __len__(self) -> int:
        return len(self.others) + sum(len(rows) for _, rows in self.paired)


@dataclass(frozen=True)
class Verdict:
    """What a gate found, read from evidence that may be anybody's."""

    passed: bool
    text: str
    kind: str
    gate: str
    asked: str
    numbers: Sequence[tuple[str, float | str]]
    fix: str
    paired: Paired | None = None


def models(store: Store) -> tuple[list[str], list[str]]:
    """Return the names of all models, and of folders that can't be any."""
    good, foreign = [], []
    for name in Registry(store).models():
        try:
            check_name(name, "a model")
            good.append(name)
        except UserError:
            foreign.append(name)
    return good, foreign


def known_model(store: Store, model: str) -> None:
    """Raise NotFound unless there is such a model."""
    try:
        check_name(model, "a model")
        if store.children(f"registry/{model}"):
            return
    except (UserError, ValueError):
        pass
    raise NotFound(f"no model '{model}' is registered in {store.uri}.")


def past(store: Store, model: str) -> Past:
    """Return a model's history, whole or not. Raises StoreError for a store that is away."""
    stood = _pointers(store, model)  # before the history, which may only get longer meanwhile
    try:
        entries = Registry(store).history(model)
    except Damaged as error:
        return Past(_left(store, model), str(error))
    for alias, seq in stood.items():
        if seq > len(entries):
            text = (
                f"registry/{model}/history/{seq}.json is missing, with what came after it: alias "
                f"{alias} was moved by entry {seq}, and the history ends with {len(entries)}."
            )
            return Past(entries, text)
    return Past(entries)


def _pointers(store: Store, model: str) -> dict[str, int]:
    """Return by alias the entry that moved it last, as the aliases' own files say."""
    found = {}
    for name in store.children(f"registry/{model}/aliases"):
        try:
            value = json.loads(store.read(f"registry/{model}/aliases/{name}"))
            if type(value["seq"]) is int:
                found[name.removesuffix(".json")] = value["seq"]
        except (NotFound, ValueError, KeyError, TypeError, RecursionError):
            continue  # `vila registry verify` tells of it, the next move writes it anew
    return found


def believable(store: Store, model: str, number: int | None = None) -> None:
    """Raise Damaged unless a model's history is whole, and a version as it was registered."""
    found = past(store, model)
    if found.broken:
        raise Damaged(f"{found.broken}\n  fix: vila registry verify {model}")
    if number is not None:
        verified_version(store, f"{model}@{number}", allow_unsigned=True)


def wrong(store: Store, model: str) -> list[Finding]:
    """Return what a check of a model's records finds, its files left out."""
    return check(store, model, files=False).findings[:MOST_FINDINGS]


def _left(store: Store, model: str) -> list[HistoryEntry]:
    found = []
    for number in numbers_in(store.children(f"registry/{model}/history")):
        place = entry_place(model, number)
        try:
            found.append(read_entry(store.read(place), place))
        except (Damaged, NotFound):
            continue
    return found


def numbers(store: Store, model: str) -> list[int]:
    """Return the numbers of a model's versions, in order."""
    return numbers_in(store.children(f"registry/{model}/versions"))


def summary(store: Store, model: str) -> Summary:
    """Return a model for the list. What can't be read is told in it."""
    try:
        found = numbers(store, model)
        return Summary(model, len(found), found[-1] if found else None, past(store, model))
    except (VilaError, OSError) as error:
        return Summary(model, 0, None, Past(()), str(error))


def rows(store: Store, model: str, wanted: Iterable[int], found: Past) -> list[Row]:
    """Return versions for a table."""
    return [_row(store, model, number, found) for number in wanted]


def _row(store: Store, model: str, number: int, found: Past) -> Row:
    version, problem = None, ""
    try:
        version = Registry(store).version(model, number)
    except (VilaError, OSError) as error:
        problem = str(error)
    return Row(
        number,
        version,
        found.aliases_of(number),
        found.decision(number),
        bool(found.forced(number)),
        problem,
    )


def passed(evidence: Mapping[str, Any]) -> bool | None:
    """Return whether the gates in evidence passed; None where none were asked."""
    gates = evidence.get("gates")
    return bool(evidence.get("passed")) if isinstance(gates, list) and gates else None


def verdicts(evidence: Mapping[str, Any]) -> list[Verdict]:
    """Return what the gates found, whatever wrote the evidence."""
    gates = evidence.get("gates")
    found = gates if isinstance(gates, list) else []
    return [_verdict(one) for one in found if isinstance(one, Mapping)]


def grouped(found: Sequence[Verdict]) -> Verdicts:
    """Return verdicts as a page shows them, those of a kind of paired test in one table."""
    kinds: dict[str, list[tuple[Verdict, Paired]]] = {}
    for one in found:
        if one.paired is not None:
            about = f"{one.kind}, above {one.paired.above:+.3g} points"
            kinds.setdefault(about, []).append((one, one.paired))
    tables = []
    for kind, rows in kinds.items():
        ends = scale(value for _, one in rows for value in (one.low, one.high, one.above))
        tables.append(
            (
                kind,
                [
                    PairedRow(
                        verdict,
                        one,
                        interval(one.low, one.difference, one.high, one.above, ends),
                    )
                    for verdict, one in rows
                ],
            )
        )
    return Verdicts([one for one in found if one.paired is None], tables)


def _verdict(value: Mapping[str, Any]) -> Verdict:
    given = value.get("details")
    details: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    told: list[tuple[str, float | str]] = []
    for name, one in details.items():
        if name not in _TOLD_ELSEWHERE and (text := _told(one)) not in (None, 0.0):
            told.append((str(name).replace("_", " "), text or ""))
    return Verdict(
        passed=value.get("passed") is True,
        text=str(value.get("text") or ""),
        kind=str(value.get("kind") or "threshold"),
        gate=str(details.get("gate") or ""),
        asked=str(details.get("asked") or ""),
        numbers=told,
        paired=_paired(details),
        fix=str(details.get("fix") or ""),
    )


def _told(value: object) -> float | str | None:
    number = finite(value)
    if number is not None:
        return number
    if isinstance(value, str | bool):
        return str(value)[:300]
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return ", ".join(value)[:300]
    return None


def _paired(details: Mapping[str, Any]) -> Paired | None:
    found = {name: finite(details.get(name)) for name in _MEASURED}
    low, middle, high = found["low"], found["difference"], found["high"]
    if low is None or middle is None or high is None:
        return None
    null = found["null"] if found["null"] is not None else -(found["margin"] or 0.0)
    points = {name: None if one is None else 100 * one for name, one in found.items()}
    return Paired(
        benchmark=str(details.get("gate") or details.get("benchmark") or ""),
        questions=found["n"],
        this=points["second"],
        present=points["first"],
        low=100 * low,
        difference=100 * middle,
        high=100 * high,
        above=100 * null,
        p=found["p_holm"] if found["p_holm"] is not None else found["p"],
        detectable=points["detectable"],
    )


_MEASURED = (
    *("low", "difference", "high", "null", "margin", "n"),
    *("first", "second", "p", "p_holm", "detectable"),
)


def files(store: Store, sha256: str) -> tuple[list[File], int, int]:
    """Return the files of an artifact (MOST_FILES at most), how many there are, and their bytes.

    Raises NotFound, and Damaged for a manifest that is not the one that was published.
    """
    place = f"artifacts/{sha256}/manifest.json"
    data = store.read(place)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Damaged(f"{place}: does not match the artifact's digest; it was changed.")
    found = [
        File(str(one["path"]), int(one["size"]), str(one["sha256"]))
        for one in json.loads(data)["files"]
    ]
    return found[:MOST_FILES], len(found), sum(one.size for one in found)


def certificates(store: Store, version: Version) -> list[tuple[str, bool | None, str]]:
    """Return (name, whether it passed, content) of what proves something about a version."""
    found: list[tuple[str, bool | None, str]] = []
    lead = f"runs/{version.run_id}/certificates"
    names = store.children(lead) if version.run_id else []
    for name in names[:MOST_CERTIFICATES]:
        if not name.endswith(".json"):
            continue
        try:
            value = json.loads(store.read(f"{lead}/{name}"))
        except (NotFound, ValueError, RecursionError) as error:
            found.append((name, None, f"it can't be read: {error}"))
            continue
        found.append((name.removesuffix(".json"), _proven(value), told(value)))
    for layout, value in exports(store, version.model, version.number).items():
        found.append((f"export as {layout}", certifies(value, version), told(value)))
    return found


def told(value: object) -> str:
    """Return a value as text for a page: without secrets, and not without end."""
    text = dumps(mask(value), indent=2)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}\n… ({len(text):,} characters)"


def _proven(value: object) -> bool | None:
    if not isinstance(value, Mapping):
        return None
    for name in ("passed", "equal", "identical", "ok"):
        if isinstance(value.get(name), bool):
            return value[name]
    return None


def mirrors(store: Store, model: str) -> list[Status]:
    """Return how far each mirror and webhook has come with a model; none where none is set up."""
    from vila_ops.registry.mirror_settings import read_settings
    from vila_ops.registry.outbox import statuses

    return statuses(store, read_settings(), model=model)
