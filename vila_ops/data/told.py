"""What `vila data trace` and `takedown` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from vila_ops.cli import render
from vila_ops.data.takedown import Takedown
from vila_ops.data.trace import Place, Seen, Use


def print_trace(key: str, places: Sequence[Place], seen: Seen) -> None:
    """Print source, places and trainings of a sample."""
    out = render.console()
    first = places[0]
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("sample", key)
    facts.add_row("record", first.source)
    for name, value in first.meta.items():
        if value is not None:
            facts.add_row(name, Text(str(value)))
    facts.add_row("content", first.digest[:12])
    facts.add_row("length", f"{first.text_tokens:,} text tokens, {first.images} images")
    for place in places:
        facts.add_row("prepared by", f"run {place.run_id}, data {place.data[:12]}")
        facts.add_row("", f"{place.shard} at byte {place.offset:,}, {place.size:,} bytes")
    out.print(facts)
    out.print()
    _print_uses(seen.uses, seen.untold)


def print_takedown(found: Takedown) -> None:
    """Print what samples touch."""
    out = render.console()
    for key in found.unknown:
        out.print(f"{key}: no prepared data hold it", markup=False, highlight=False)
    table = _table("data", "shard", "samples")
    for data, shard, count in found.shards():
        table.add_row(data[:12], shard, f"{count:,}")
    out.print(table)
    out.print()
    _print_uses(found.uses, found.untold)
    for use in found.restarts():
        start = f"checkpoint step-{use.restart}" if use.restart else "its start"
        again = use.steps_done - use.restart
        text = (
            f"run {use.run_id}: train {use.task} again from {start} ({again:,} of "
            f"{use.steps_done:,} steps), then every task that follows it"
        )
        out.print(text, markup=False, highlight=False, soft_wrap=True)
    models = ", ".join(found.models()) or "none"
    out.print(f"models made from them: {models}", markup=False, highlight=False, soft_wrap=True)


def _print_uses(uses: Sequence[Use], untold: Sequence[str]) -> None:
    out = render.console()
    for text in untold:
        out.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if not uses:
        out.print(f"no {'other ' if untold else ''}training has seen it")
        return
    table = _table("run", "task", "seen in steps", "of", "models")
    for use in uses:
        steps = ", ".join(map(str, use.steps[:4])) + (" …" if len(use.steps) > 4 else "")
        table.add_row(use.run_id, use.task, steps, str(use.steps_done), ", ".join(use.models))
    out.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
