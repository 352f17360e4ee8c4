"""Paired comparisons, and the noise of seeds, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from components.registry.noise import Spread
from vila_ops.cli.render import console
from vila_ops.comparing.chosen import Chosen
from vila_ops.comparing.disagreements import Found
from vila_ops.paired import LEVEL, POWER, Paired, Row

STYLES = {"better": "green", "worse": "bold red"}


def print_paired(found: Paired) -> None:
    """Print one row per benchmark, then what the columns mean and what was left out."""
    out = console()
    for letter, name in (("A", found.first), ("B", found.second)):
        out.print(Text.assemble((letter, "bold"), f"  {name}"))
    out.print()
    table = _table("benchmark", "n", "A", "B", "B - A", "95% interval", "p", "can find")
    by_seeds = any(row.noise is not None for row in found.rows)
    if by_seeds:
        table.add_column("by seeds", justify="right", no_wrap=True)
    table.add_column("B is")
    for row in found.rows:
        table.add_row(*_cells(row), *([_noise(row)] if by_seeds else []), _verdict(row))
    out.print(table)
    out.print()
    for line in _legend(found, by_seeds):
        out.print(Text(line, style="dim"), soft_wrap=True)


def print_disagreements(found: Found, runs: Sequence[Chosen], questions: Sequence[str]) -> None:
    """Print the questions of a page with the answers of all runs."""
    out = console()
    for one in runs:
        out.print(Text.assemble((one.letter, "bold"), f"  {one.name}"))
    for row, question in zip(found.rows, questions, strict=True):
        out.print()
        out.print(Text(row.key, style="dim"), soft_wrap=True)
        if question:
            out.print(Text(f"  {question}"), soft_wrap=True)
        out.print(Text(f"  right: {' / '.join(row.references) or 'not public'}"), soft_wrap=True)
        for one, answer in zip(runs, row.answers, strict=True):
            said = "was not asked" if answer.text is None else answer.text
            line = Text.assemble("  ", (one.letter, "bold"), f": {said}  ")
            line.append(_mark(answer.score), style="dim")
            out.print(line, soft_wrap=True)
    out.print()
    said = f"{len(found.rows)} of {found.count:,} questions of {found.of:,} that both were asked"
    out.print(said, style="dim")


def _mark(score: float | None) -> str:
    if score is None:
        return ""
    return {0.0: "wrong", 1.0: "right"}.get(score, f"{100 * score:.0f} of 100")


def print_noise(found: Mapping[str, Mapping[str, Spread]]) -> None:
    """Print the spread of every metric, by size."""
    out = console()
    for size, spreads in found.items():
        out.print(Text(f"noise of seeds, {size}", style="bold"))
        if not spreads:
            out.print("no two runs of one group yet", style="dim")
            continue
        table = _table("metric", "deviation", "two runs apart", "runs", "groups")
        for metric, spread in spreads.items():
            table.add_row(
                metric,
                f"{spread.deviation:.4f}",
                f"±{spread.difference():.4f}",
                str(spread.runs),
                str(spread.groups),
            )
        out.print(table)


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        f"{row.questions:,}",
        f"{100 * row.first:.1f}",
        f"{100 * row.second:.1f}",
        f"{100 * row.difference:+.1f}",
        f"{100 * row.low:+.1f} … {100 * row.high:+.1f}",
        f"{row.p_holm:.2g}",
        "-" if row.detectable is None else f"{100 * row.detectable:.1f}",
    ]


def _noise(row: Row) -> str:
    return "-" if row.noise is None else f"±{100 * row.noise:.1f}"


def _verdict(row: Row) -> Text:
    beyond = row.verdict in STYLES and row.noise is not None and abs(row.difference) <= row.noise
    text = f"{row.verdict}, within seeds" if beyond else row.verdict
    return Text(text, style=STYLES.get(row.verdict, "dim"))


def _legend(found: Paired, by_seeds: bool) -> list[str]:
    count = len(found.rows)
    tests = " and ".join(dict.fromkeys(row.test for row in found.rows))
    lines = [
        f"mean scores in points of 100; p: {tests}, corrected for {count} "
        f"{'test' if count == 1 else 'tests'} (Holm); can find: least true difference found "
        f"{POWER:.0%} of the time at {LEVEL:.0%}",
    ]
    if by_seeds:
        lines.append(
            "by seeds: how far two trainings lie apart by their seeds alone; a difference within "
            "it is one of these two checkpoints, perhaps not of their recipes"
        )
    for row in found.rows:
        if row.left_out:
            lines.append(f"{row.name}: {row.left_out:,} questions were asked in one of both only")
        if row.other_prompts:
            lines.append(
                f"{row.name}: {row.other_prompts:,} of {row.questions:,} prompts differ (template, "
                "demonstrations or images)"
            )
    lines += [f"{name}: not compared, {why}" for name, why in sorted(found.skipped.items())]
    return lines
