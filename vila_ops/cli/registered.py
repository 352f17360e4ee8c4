"""The registry as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vila_ops.cli.render import cell, console


def print_versions(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per version."""
    table = _table("version", "aliases", "gates", "run", "registered")
    for row in rows:
        table.add_row(
            row["name"],
            ", ".join(row["aliases"]) or "-",
            _verdict(row["gates_passed"]),
            row["run_id"],
            _minute(row["created_at"]),
        )
    console().print(table)


def print_version(name: str, version: Mapping[str, Any]) -> None:
    """Print a version: where it came from, what the gates said, its metrics."""
    out = console()
    out.print(Text(name, style="bold"), ", ".join(version["aliases"]))
    facts = Table.grid(padding=(0, 2))
    facts.add_row("run", version["run_id"])
    facts.add_row("registered", f"{_minute(version['created_at'])} by {version['created_by']}")
    facts.add_row("artifact", version["artifact"]["sha256"][:12])
    for task, entry in version["lineage"].get("tasks", {}).items():
        facts.add_row(f"made by {task}", f"key {str(entry['key'])[:12]}")
    out.print(facts)
    out.print()
    for verdict in version["evidence"].get("gates", []):
        out.print(_verdict(verdict["passed"]), Text(verdict["text"]), soft_wrap=True)
    out.print()
    table = _table("metric", "value")
    for key, value in sorted(version["metrics"].items()):
        table.add_row(key, cell(value))
    out.print(table)


def print_history(entries: Sequence[Mapping[str, Any]]) -> None:
    """Print who moved which alias or judged which version, when and why."""
    if not entries:
        return
    table = _table("what", "alias", "from", "to", "when", "who", "why")
    for entry in entries:
        table.add_row(
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


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _verdict(passed: bool) -> Text:
    return Text("passed", "green") if passed else Text("failed", "bold red")


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
