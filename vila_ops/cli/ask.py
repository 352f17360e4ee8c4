"""`vila ask`: try a model."""

from __future__ import annotations

from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption, StoreOption, UnsignedOption, store_uri


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(ask)


def ask(
    model: Annotated[
        str, typer.Argument(help="NAME@ALIAS or NAME@VERSION of the registry, a run, or a folder.")
    ],
    words: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE... QUESTION", help="Image files, then the question."),
    ],
    template: Annotated[
        str | None, typer.Option(help="Prompt template; default: the one of the model's run.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    allow_unsigned: UnsignedOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Ask a model a question about images.

    Without images it is a question about text.
    """
    from vila_core.store import open_store
    from vila_ops import ask as asking

    *paths, question = words
    images = asking.read_images(paths)
    found = asking.find_model(open_store(store_uri(store)), model, allow_unsigned=allow_unsigned)
    answer = asking.ask(found, images, question, template=template, max_new_tokens=max_new_tokens)
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps({"model": found.origin, "question": question, "answer": answer}))
    else:
        typer.echo(answer)
