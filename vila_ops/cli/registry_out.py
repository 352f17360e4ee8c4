"""What leaves the registry: `vila registry card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli.options import StoreOption, store_uri

NameArgument = Annotated[
    str, typer.Argument(metavar="MODEL@X", help="MODEL@VERSION or MODEL@ALIAS.")
]


def add(app: typer.Typer) -> None:
    """Add the commands to those of the registry."""
    app.command()(card)


def card(
    name: NameArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there instead of printing it.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Print a version's model card, in Hugging Face's format."""
    from components.registry import Registry
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.registry import card as cards

    opened = open_store(store_uri(store))
    text = cards.card(opened, Registry(opened).resolve(name))
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: can't be written: {error.strerror or error}") from None
    typer.echo(f"{name}: its card is in {out}")
