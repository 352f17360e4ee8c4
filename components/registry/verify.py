"""Whether a registry is what it was: chain, numbering, aliases, signatures, and every file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from components.registry import blobs
from components.registry.history import is_record, numbers_in
from components.registry.records import HistoryEntry, Version, read_entry, read_version
from components.registry.registry import Registry
from components.registry.signatures import Signatures
from components.registry.signing import BAD, UNKNOWN, UNSIGNED, VALID, Trust, trust_of_user
from vila_core.errors import Damaged, NotFound, StoreError, UserError
from vila_core.store import Store

PARALLEL = 8
"""Files that are read at a time."""
ERROR, NOTE = "error", "note"
RESTORE = "restore the file from a copy of the store (a backup, or a version of the bucket)"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be: the key, what is wrong, and what to do."""

    model: str
    key: str
    what: str
    fix: str
    level: str = ERROR
    """NOTE: nothing is lost and nothing was changed, so it fails no check."""


@dataclass
class Findings:
    """What a check found, and how much it looked at."""

    findings: list[Finding] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    versions: int = 0
    entries: int = 0
    files: int = 0
    bytes: int = 0
    signatures: Counter[str] = field(default_factory=Counter)
    trusted: bool = False
    """Whether this user trusts any key or identity."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; notes are allowed."""
        return not any(finding.level == ERROR for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the findings as a JSON-able mapping."""
        values = {**vars(self), "ok": self.ok, "signatures": dict(self.signatures)}
        return values | {"findings": [vars(finding) for finding in self.findings]}


def check(
    store: Store,
    model: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    *,
    trust: Trust | None = None,
    files: bool = True,
) -> Findings:
    """Check a model, or all of them, and never stop at the first thing found.

    `say` is told what is looked at; `trust` is this user's unless it is given; without `files` the
    records alone are checked. Raises UserError for
    an unknown model, Unreachable for a store that does not answer.
    """
    models = Registry(store).models()
    if model is not None and model not in models:
        raise UserError(
            f"no model '{model}' is registered; registered: {', '.join(models) or 'none yet'}."
        )
    trust = trust_of_user() if trust is None else trust
    found = Findings(models=[model] if model else models, trusted=trust.anybody)
    artifacts: dict[str, str] = {}
    for name in found.models:
        say(f"checking the history and versions of {name}")
        artifacts |= _Check(store, name, trust, found).run()
    for sha256, name in artifacts.items() if files else ():
        say(f"checking the files of artifact {sha256[:12]}")
        checked = blobs.check_artifact(store, sha256)
        found.files += checked.files
        found.bytes += checked.bytes
        found.findings += [Finding(name, one.key, one.what, one.fix) for one in checked.wrong]
    return found


def verified_version(
    store: Store, name: str, allow_unsigned: bool = False, *, trust: Trust | None = None
) -> Version:
    """Return the version meant by `model@number` or `model@alias`, once its record can be believed.

    Its chain is whole where an alias is meant, the entry that put the alias there and the version
    are signed by somebody trusted (where anybody is), and no signature is bad. Whoever fetches the
    artifact then checks its files. Raises UserError for what does not exist and for what is not
    signed (unless `allow_unsigned`), Damaged for what was changed.
    """
    trust = trust_of_user() if trust is None else trust
    registry = Registry(store)
    model, _, alias = name.partition("@")
    entries = registry.history(model) if model in registry.models() else []
    version = registry.resolve(name, entries)
    records: list[Version | HistoryEntry] = [version]
    for entry in entries:
        if entry.version == version.number and entry.version_digest not in ("", version.digest()):
            raise Damaged(
                f"{version.name}: its record was changed after entry {entry.seq} of the history "
                f"named it.\n  fix: vila registry verify {version.model}; {RESTORE}"
            )
    records += [entry for entry in entries if entry.moves and entry.alias == alias][-1:]
    signatures = Signatures(store, version.model)
    for record in records:
        signed = signatures.examined(record, trust)
        what = version.name if record is version else f"the entry that put {name} where it is"
        if signed.state == BAD:
            raise Damaged(
                f"{what}: {signed.text}.\n  fix: vila registry verify {version.model}; {RESTORE}"
            )
        if trust.anybody and signed.state != VALID and not allow_unsigned:
            raise UserError(f"{what}: {signed.text}.\n  fix: {_fix(signed.state, version.model)}")
    return version


def _fix(state: str, model: str) -> str:
    if state == UNKNOWN:
        return (
            "get that key's public part from its owner and: vila registry key trust FILE "
            "(or, this once, --allow-unsigned)"
        )
    return (
        f"whoever knows that it is good signs it: vila registry sign {model} "
        "(or, this once, --allow-unsigned)"
    )


class _Check:
    """The records of one model."""

    def __init__(self, store: Store, model: str, trust: Trust, found: Findings) -> None:
        self._store, self._model, self._trust, self._found = store, model, trust, found
        self._signatures = Signatures(store, model)
        self._there: dict[str, list[int]] = {}  # records by kind, also those that can't be read

    def run(self) -> dict[str, str]:
        """Check everything but files; return the artifacts to check, with the model's name."""
        aliases = self._aliases()  # before the history, which may only get longer meanwhile
        entries = self._entries()
        versions = self._versions()
        if not any(self._there.values()):
            place = f"registry/{self._model}"
            what = "is no model: it holds no version"
            self._found.findings.append(Finding(self._model, place, what, "remove it"))
        self._chain(entries)
        self._against_versions(entries, versions)
        self._against_aliases(entries, aliases)
        self._signed([*versions.values(), *entries.values()])
        self._found.versions += len(versions)
        self._found.entries += len(entries)
        artifacts: dict[str, str] = {}
        for version in versions.values():
            for sha256 in (version.artifact.sha256, version.results, version.baseline):
                if sha256:
                    artifacts.setdefault(sha256, self._model)
        return artifacts

    def _wrong(self, key: str, what: str, fix: str = RESTORE, level: str = ERROR) -> None:
        place = f"registry/{self._model}/{key}"
        self._found.findings.append(Finding(self._model, place, what, fix, level))

    def _names(self, kind: str) -> list[str]:
        """Return the names in a folder of records, and tell of what is none."""
        names = self._store.children(f"registry/{self._model}/{kind}")
        for name in names:
            if not is_record(name):
                self._wrong(f"{kind}/{name}", "is no record of the registry", "remove it")
        return names

    def _read_all(self, kind: str, read: Callable[[str, int], Any]) -> dict[int, Any]:
        """Return the records of a folder that can be read, by number, and tell of the others."""
        numbers = self._there[kind] = numbers_in(self._names(kind))
        found = {}
        for missing in sorted(set(range(1, max(numbers, default=0))) - set(numbers)):
            self._wrong(f"{kind}/{missing}.json", "is missing: those after it are there")
        with ThreadPoolExecutor(PARALLEL) as pool:
            for number, made in zip(
                numbers, pool.map(lambda one: _tried(read, kind, one), numbers), strict=True
            ):
                if isinstance(made, StoreError):
                    text = str(made).partition("\n")[0]
                    what = text.partition(f"{kind}/{number}.json: ")[2] or text
                    self._wrong(f"{kind}/{number}.json", what.rstrip("."))
                else:
                    found[number] = made
        return found

    def _versions(self) -> dict[int, Version]:
        def read(place: str, number: int) -> Version:
            return read_version(self._store.read(place), place, self._model, number)

        return self._read_all("versions", lambda kind, n: read(self._place(kind, n), n))

    def _entries(self) -> dict[int, HistoryEntry]:
        def read(place: str) -> HistoryEntry:
            return read_entry(self._store.read(place), place)

        return self._read_all("history", lambda kind, n: read(self._place(kind, n)))

    def _place(self, kind: str, number: int) -> str:
        return f"registry/{self._model}/{kind}/{number}.json"

    def _chain(self, entries: dict[int, HistoryEntry]) -> None:
        for number, entry in entries.items():
            key = f"history/{number}.json"
            if entry.seq != number:
                self._wrong(key, f"says that it is entry {entry.seq}: it was moved here")
            before = entries.get(number - 1)
            if number == 1 and entry.previous:
                self._wrong(key, "is the first, but says that another one came before it")
            elif before is not None and entry.previous != before.digest():
                self._wrong(
                    key,
                    f"does not follow entry {number - 1}: one of the two was changed, inserted or "
                    "put in another's place",
                )

    def _against_versions(
        self, entries: dict[int, HistoryEntry], versions: dict[int, Version]
    ) -> None:
        told: set[int] = set()
        for number, entry in entries.items():
            version = versions.get(entry.version)
            key = f"versions/{entry.version}.json"
            if entry.version in told:
                continue
            if entry.version not in self._there["versions"]:
                self._wrong(key, f"is missing: entry {number} of the history is about it")
                told.add(entry.version)
            elif version and entry.version_digest not in ("", version.digest()):
                self._wrong(key, f"was changed after entry {number} of the history named it")
                told.add(entry.version)

    def _aliases(self) -> dict[str, Any]:
        """Return what each alias file holds; None for one that can't be read."""
        found = {}
        for name in self._store.children(f"registry/{self._model}/aliases"):
            if not name.endswith(".json"):
                self._wrong(f"aliases/{name}", "is no alias", "remove it")
                continue
            try:
                found[name[:-5]] = json.loads(
                    self._store.read(f"registry/{self._model}/aliases/{name}")
                )
            except (NotFound, Damaged, ValueError, RecursionError):
                found[name[:-5]] = None
        return found

    def _against_aliases(self, entries: dict[int, HistoryEntry], aliases: dict[str, Any]) -> None:
        repaired = "the next move of an alias of this model writes it anew"
        standing = {one.alias: (n, one) for n, one in entries.items() if one.moves and one.alias}
        for alias, value in aliases.items():
            key = f"aliases/{alias}.json"
            seq, version = _pointer(value)
            if seq is None:
                self._wrong(key, "is not an alias: no JSON object with version and seq", repaired)
                continue
            entry = entries.get(seq)
            if seq > max(self._there["history"], default=0):
                self._wrong(
                    f"history/{seq}.json",
                    f"is missing, with what came after it: alias {alias} was moved by entry {seq}",
                )
            elif entry is not None and (entry.alias, entry.version) != (alias, version):
                self._wrong(
                    key,
                    f"was changed by hand: it says version {version}, entry {seq} of the history "
                    f"says {entry.kind} {entry.alias or '-'} to {entry.version}",
                    f"remove it: {repaired}",
                )
            elif alias in standing and seq < standing[alias][0]:
                self._wrong(
                    key, f"is behind entry {standing[alias][0]} of the history", repaired, NOTE
                )
        for alias, (number, _) in standing.items():
            if alias not in aliases:
                self._wrong(
                    f"aliases/{alias}.json",
                    f"is missing: entry {number} of the history moved it",
                    repaired,
                    NOTE,
                )

    def _signed(self, records: Sequence[Version | HistoryEntry]) -> None:
        examined = self._signatures.all_examined(records, self._trust)
        for record, signed in zip(records, examined, strict=True):
            self._found.signatures[signed.state] += 1
            if signed.state == BAD or (self._trust.anybody and signed.state != VALID):
                if isinstance(record, Version):
                    key = f"versions/{record.number}.json"
                else:
                    key = f"history/{record.seq}.json"
                fix = RESTORE if signed.state == BAD else _fix(signed.state, self._model)
                self._wrong(key, signed.text, fix)


def _tried(read: Callable[[str, int], Any], kind: str, number: int) -> Any:
    try:
        return read(kind, number)
    except (Damaged, NotFound) as error:
        return error


def _pointer(value: Any) -> tuple[int | None, int | None]:
    if not isinstance(value, dict):
        return None, None
    seq, version = value.get("seq"), value.get("version")
    if type(seq) is not int or type(version) is not int:
        return None, None
    return seq, version


__all__ = ["ERROR", "NOTE", "UNSIGNED", "Finding", "Findings", "check", "verified_version"]
