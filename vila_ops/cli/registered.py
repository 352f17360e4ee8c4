"""The registry as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from components.registry.records import MOVES
from vila_ops.cli.render import cell, console

if TYPE_CHECKING:
    from components.registry.verify import Findings


def print_versions(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per version."""
    table = _table("version", "aliases", "gates", "run", "registered")
    for row in rows:
        _row(
            table,
            row["name"],
            ", ".join(row["aliases"]) or "-",
            _verdict(row["gates_passed"]),
            row["run_id"],
            _minute(row["created_at"]),
        )
    console().print(table)


def print_version(version: Mapping[str, Any]) -> None:
    """Print a version: where it came from, who signed it, what the gates said, its metrics."""
    out = console()
    out.print(Text(version["name"], style="bold"), Text(", ".join(version["aliases"])))
    facts = Table.grid(padding=(0, 2))
    _row(facts, "run", Text(version["run_id"]))
    who = f"{_minute(version['created_at'])} by {version['created_by']}"
    _row(facts, "registered", Text(who))
    _row(facts, "record", version["digest"][:12])
    _row(facts, "artifact", version["artifact"]["sha256"][:12])
    for name in ("results", "baseline"):
        if version[name]:
            _row(facts, name, version[name][:12])
    _row(facts, "signature", _signature(version["signed"]))
    for task, entry in version["lineage"].get("tasks", {}).items():
        _row(facts, Text(f"made by {task}"), f"key {str(entry['key'])[:12]}")
    for layout, proof in version["exports"].items():
        _row(facts, f"export as {layout}", "certified" if proof["holds"] else "differs")
    if version["exports_problem"]:
        _row(facts, "exports", Text(version["exports_problem"]))
    out.print(facts)
    out.print()
    for verdict in version["evidence"].get("gates", []):
        out.print(_verdict(verdict["passed"]), Text(verdict["text"]), soft_wrap=True)
    if version["history"]:
        out.print()
    for entry in version["history"]:
        out.print(Text(_line(entry)), soft_wrap=True)
    out.print()
    table = _table("metric", "value")
    for key, value in sorted(version["metrics"].items()):
        _row(table, Text(key), cell(value))
    out.print(table)


def print_entries(model: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Print each entry in two lines: what happened, and who signed that; why."""
    out = console()
    for entry in entries:
        out.print(
            Text(f"{entry['seq']:>4}  ", "dim"),
            Text(_line(entry)),
            Text(" FORCED", "bold red") if entry["forced"] else "",
            sep="",
            soft_wrap=True,
        )
        if entry["why"]:
            out.print(Text(f"      {entry['why']}"), soft_wrap=True)
        out.print(Text("      "), _signature(entry["signed"]), sep="", soft_wrap=True)
    word = "entry" if len(entries) == 1 else "entries"
    states = Counter(entry["signed"]["state"] for entry in entries)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    out.print(Text(f"signatures: {told}", "bold red" if "bad" in states else ""), soft_wrap=True)
    out.print(
        Text(f"{len(entries)} {word}, the chain is whole; files: vila registry verify {model}"),
        soft_wrap=True,
    )


def print_findings(found: Findings) -> None:
    """Print what a check found, one block a finding, and what it looked at."""
    out = console()
    for finding in found.findings:
        color = "bold red" if finding.level == "error" else "yellow"
        word = "wrong" if finding.level == "error" else "note "
        text = Text.assemble((f"{word} ", color), (f"{finding.key} ", "bold"), finding.what)
        out.print(text, soft_wrap=True)
        out.print(Text(f"      fix: {finding.fix}"), soft_wrap=True)
    signatures = ", ".join(f"{count} {state}" for state, count in sorted(found.signatures.items()))
    out.print(
        f"read: models {len(found.models)}, versions {found.versions}, entries of the history "
        f"{found.entries}, files {found.files} ({found.bytes / 1e6:.1f} MB)",
        soft_wrap=True,
    )
    if signatures:
        out.print(f"signatures: {signatures}", soft_wrap=True)
    if not found.trusted:
        out.print("you trust no key, so nobody's signature is asked for", soft_wrap=True)
    wrong = sum(finding.level == "error" for finding in found.findings)
    out.print(Text("all is as it was", "green") if found.ok else Text(f"{wrong} wrong", "bold red"))


def print_history(entries: Sequence[Mapping[str, Any]]) -> None:
    """Print who moved which alias or judged which version, when and why."""
    if not entries:
        return
    table = _table("what", "alias", "from", "to", "when", "who", "why")
    for entry in entries:
        _row(
            table,
            entry["kind"] + (" (forced)" if entry["forced"] else ""),
            entry["alias"] or "-",
            "-" if entry["before"] is None else str(entry["before"]),
            str(entry["version"]),
            _minute(entry["when"]),
            entry["who"],
            entry["why"],
        )
    out = console()
    out.print()
    out.print(table)


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row; texts of other people are no markup."""
    table.add_row(*(Text(one) if isinstance(one, str) else one for one in cells))


def _line(entry: Mapping[str, Any]) -> str:
    """Return what happened, when and by whom."""
    when = f"{_minute(entry['when'])} {entry['who']}"
    if entry["kind"] not in MOVES:
        limit = f" for {entry['alias']}" if entry["alias"] else ""
        return f"{when}: {entry['kind']} version {entry['version']}{limit}"
    before = "new" if entry["before"] is None else str(entry["before"])
    return f"{when}: {entry['kind']} {entry['alias']} {before} -> {entry['version']}"


def _signature(signed: Mapping[str, str]) -> Text:
    color = {"valid": "green", "bad": "bold red"}.get(signed["state"], "yellow")
    return Text(signed["text"], color)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _verdict(passed: bool) -> Text:
    return Text("passed", "green") if passed else Text("failed", "bold red")


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
