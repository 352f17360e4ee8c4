"""`vila lineage`: what something was made from, and who uses it."""

from __future__ import annotations

from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(lineage)


def lineage(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIGEST",
            help="MODEL@VERSION, MODEL@ALIAS, a run, RUN:TASK, a corpus, a sample key, or six "
            "digits or more of a digest.",
        ),
    ],
    forward: Annotated[
        bool, typer.Option("--forward", help="Who uses it, near and far.", show_default=False)
    ] = False,
    back: Annotated[
        bool,
        typer.Option("--back", help="What it was made from.  [default]", show_default=False),
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Show what something was made from: runs, tasks, config, code, data. Or who uses it."""
    from vila_core.jsonio import dumps
    from vila_core.store import open_store
    from vila_ops.lineage import LineageIndex, find_one, trace_back, trace_forward
    from vila_ops.lineage.tree import lines

    index = LineageIndex(open_store(store_uri(store)), say=_note)
    index.refresh()
    root = find_one(index, what)
    ways = [trace_back] if back or not forward else []
    ways += [trace_forward] if forward else []
    graphs = [way(index, root) for way in ways]
    if json:
        told = [graph.as_json() for graph in graphs]
        typer.echo(dumps(told[0] if len(told) == 1 else told, indent=2))
    else:
        for number, graph in enumerate(graphs):
            if len(graphs) > 1:
                typer.echo("\n" * bool(number) + ("used by:" if graph.forward else "made from:"))
            for line in lines(graph):
                typer.echo(line)
    for place, why in list(index.unreadable.items())[:5]:
        _note(f"{place} can't be read: {why}")
    if len(index.unreadable) > 5:
        _note(f"{len(index.unreadable) - 5} more records can't be read")
    index.write()


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)
