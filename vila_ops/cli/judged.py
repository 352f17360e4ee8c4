"""What the gates said, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from vila_ops.cli.render import console

if TYPE_CHECKING:
    from components.registry import HistoryEntry
    from components.registry.gates.verdict import Verdict
    from vila_ops.registry.promote import Judgement

PAIRED = ("non-inferior", "superior")


def print_judgement(found: Judgement) -> None:
    """Print what is to be moved where, and one line per gate."""
    out = console()
    before = "nothing yet" if found.before is None else f"version {found.before}"
    out.print(
        Text.assemble(
            (found.what, "bold"),
            f" to {found.model}@{found.alias} (now {before}), gates {found.gates_name}",
        ),
        soft_wrap=True,
    )
    plain = [verdict for verdict in found.verdicts if verdict.kind not in PAIRED]
    if plain:
        out.print()
        out.print(_plain_table(plain))
    out.print()


def print_outcome(found: Judgement, entry: HistoryEntry | None, *, dry_run: bool) -> None:
    """Print what happened, and what comes next."""
    out = console()
    alias = f"{found.model}@{found.alias}"
    failed = [verdict for verdict in found.verdicts if not verdict.passed]
    told = f"{len(failed)} of {len(found.verdicts)} gates failed"
    if found.stands:
        lines = [f"{alias} stands at version {found.before} already; nothing was moved."]
    elif entry is not None:
        forced = f" by force: {told}; this is marked for ever" if entry.forced else ""
        lines = [
            f"{alias} is now version {entry.after}{forced}.",
            f"  next: vila ask {alias} …; back again: vila rollback {alias} --why TEXT",
        ]
    elif dry_run and not failed:
        lines = ["All gates pass. Nothing was moved: this was a dry run."]
    elif dry_run:
        lines = [f"{told}. Nothing was moved: this was a dry run."]
    else:
        lines = [
            f"NOT promoted: {told}; {alias} stays where it was.",
            "  next: what the gates ask for; or --force --why TEXT, which is marked for ever",
        ]
    for verdict in failed:
        fix = verdict.details.get("fix")
        if fix:
            lines.append(f"  {verdict.details['gate']}: {fix}")
    for line in lines:
        out.print(Text(line), soft_wrap=True)


def _plain_table(verdicts: Iterable[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("gate", overflow="fold")
    table.add_column("found", justify="right", overflow="fold")
    table.add_column("asked", overflow="fold")
    for verdict in verdicts:
        details = verdict.details
        table.add_row(
            mark(verdict.passed),
            Text(str(details.get("gate", verdict.text))),
            Text(_found(verdict.value, details)),
            Text(str(details.get("asked", ""))),
        )
    return table


def mark(passed: bool) -> Text:
    """Return a verdict as a word."""
    return Text("passed", "green") if passed else Text("FAILED", "bold red")


def _found(value: float | None, details: Any) -> str:
    if "found" in details:
        return str(details["found"])
    return "unknown" if value is None else f"{value:.4g}"
