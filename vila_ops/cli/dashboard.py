"""`vila dashboard`: runs in the browser; and the tokens of those who may look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli.options import StoreOption, store_uri

app = typer.Typer(
    help="Show the runs in the browser.", invoke_without_command=True, no_args_is_help=False
)


@app.callback()
def dashboard(
    context: typer.Context,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8080,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens",
            envvar="VILA_DASHBOARD_TOKENS",
            metavar="FILE",
            help="Hashed tokens of those who may look; needed unless only this machine can.",
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Show the runs in the browser."""
    if context.invoked_subcommand is not None:
        return
    from vila_core.errors import UserError, require

    for module in ("fastapi", "jinja2", "uvicorn"):
        require(module, extra="web", why="show the dashboard")
    from vila_core.store import open_store
    from vila_ops.web.app import create_app
    from vila_ops.web.guard import is_loopback
    from vila_ops.web.serve import serve
    from vila_ops.web.tokens import Tokens

    if tokens is None and not is_loopback(host):
        raise UserError(
            f"--host {host}: others can reach it, so it needs --tokens FILE; "
            "fix: vila dashboard token --name YOU --file FILE makes one"
        )
    known = None if tokens is None else Tokens(tokens)
    serve(create_app(open_store(store_uri(store)), known), host, port, say=typer.echo)


@app.command()
def token(
    name: Annotated[str, typer.Option("--name", help="Whose it is; shown to who logs in.")],
    role: Annotated[
        str,
        typer.Option(
            "--role", help="What it may do: viewer, runner, promoter or admin, each more."
        ),
    ] = "viewer",
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Add its hash to this file of tokens."),
    ] = None,
) -> None:
    """Make a token: it is printed once, only its hash is kept."""
    from vila_ops.web.tokens import make_token

    made, line = make_token(file, name, role)
    if file is None:
        typer.echo(f"line for the file of tokens: {line}", err=True)
    typer.echo(made)
