"""`vila data …`: corpora in, versioned shards out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption

app = typer.Typer(help="Prepare corpora, look at them, version them.", no_args_is_help=True)


@app.command()
def prepare(
    config: Annotated[
        str, typer.Argument(help="A YAML file with a `prepare` section, or a recipe's name.")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="OUT", help="The folder to write; goes on if begun.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override a value: --set prepare.workers=2."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Read corpora as published, write shards that training reads.

    Stopped at any point and called again, it goes on where it was and ends with the same bytes.
    """
    from vila_ops.data import prepare as prepared

    found = prepared.prepare(config, to, overrides or [], quiet=json)
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps(found))
        return
    prepared.print_report(found, to)
