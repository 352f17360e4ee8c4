"""`vila noise`: how far runs lie apart by their seeds alone."""

from __future__ import annotations

from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri

app = typer.Typer(
    help="How far runs lie apart by their seeds alone: what gates and compare hold against.",
    no_args_is_help=True,
)


@app.command()
def add(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...", help="Runs that differ in seeds alone, or one of vila reproduce."
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="SIZE",
            help="Size of the model: miniature, vila-7b.  [default: that of vila reproduce]",
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Keep the metrics of runs that differ in nothing but their seeds."""
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.noise import add_reproduction, add_runs

    opened = open_store(store_uri(store))
    if len(run_ids) == 1:
        added = add_reproduction(opened, run_ids[0], size)
        typer.echo(f"{added.new} trained models of size {added.size} are new in the ledger")
        return
    if size is None:
        raise UserError("--size: of which size are these runs? for example: --size miniature")
    added = add_runs(opened, run_ids, size)
    typer.echo(f"{len(added.runs)} runs of size {size}, {added.new} of them new in the ledger")


@app.command()
def show(
    size: Annotated[str | None, typer.Argument(metavar="SIZE", help="Default: all.")] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Show the spread of every metric across seeds."""
    from components.registry.noise import NoiseLedger
    from vila_core.jsonio import dumps
    from vila_core.store import open_store
    from vila_ops.cli import comparison
    from vila_ops.noise import known_noise

    opened = open_store(store_uri(store))
    sizes = [size] if size else NoiseLedger(opened).sizes()
    found = {name: known_noise(opened, name) for name in sizes}
    if json:
        rows = {
            name: {metric: spread.as_json() for metric, spread in spreads.items()}
            for name, spreads in found.items()
        }
        typer.echo(dumps(rows, indent=2))
    elif not found:
        typer.echo("nothing is known yet; add runs with: vila noise add RUN RUN --size SIZE")
    else:
        comparison.print_noise(found)
