"""`vila dashboard`: runs in the browser; who may look, and what they did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli.options import HostOption, PortOption, StoreOption, store_uri

app = typer.Typer(
    help="Show the runs in the browser.", invoke_without_command=True, no_args_is_help=False
)


TURN_SECONDS = 0.0005
"""Statistics are computed beside the requests, which else wait ten times as long for their turn."""


@app.callback()
def dashboard(
    context: typer.Context,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8080,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens",
            envvar="VILA_DASHBOARD_TOKENS",
            metavar="FILE",
            help="Hashed tokens of those who may look.",
        ),
    ] = None,
    oidc: Annotated[
        Path | None,
        typer.Option(
            "--oidc",
            envvar="VILA_DASHBOARD_OIDC",
            metavar="FILE",
            help="Config of an OpenID provider: this or --tokens, unless on loopback.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--proxy",
            envvar="VILA_DASHBOARD_PROXIES",
            metavar="CIDR",
            help="Network of proxies whose X-Forwarded-For is believed; may be given again.",
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Show the runs in the browser."""
    if context.invoked_subcommand is not None:
        return
    _require()
    import threading

    from vila_core.store import open_store
    from vila_ops.registry.outbox import delivering
    from vila_ops.web.app import create_app
    from vila_ops.web.limits import proxies_of
    from vila_ops.web.oidc import Provider
    from vila_ops.web.oidc_config import load_oidc
    from vila_ops.web.serve import check_host, serve
    from vila_ops.web.tokens import Tokens

    guarded = tokens is not None or oidc is not None
    check_host(host, guarded=guarded, ways="--tokens FILE or --oidc FILE")
    known = None if tokens is None else Tokens(tokens)
    provider = None if oidc is None else Provider(load_oidc(oidc))
    opened = open_store(store_uri(store))
    made = create_app(opened, known, provider, proxies_of(proxy or ()))
    if provider is not None:
        if provider.key is None and known is None:
            typer.echo(f"{oidc}: no session_key: sessions end with this process", err=True)
        threading.Thread(target=provider.warm, daemon=True).start()
    sys.setswitchinterval(TURN_SECONDS)
    with delivering(opened):
        serve(made, host, port, say=typer.echo)


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
    _require()
    from vila_ops.web.tokens import make_token

    made, line = make_token(file, name, role)
    if file is None:
        typer.echo(f"line for the file of tokens: {line}", err=True)
    typer.echo(made)


@app.command()
def audit(
    store: StoreOption = None,
    last: Annotated[
        int, typer.Option("--last", min=0, max=10_000, help="Print so many of the newest entries.")
    ] = 0,
) -> None:
    """Check the audit log: exit code 1 where an entry was changed or is missing."""
    _require()
    from vila_core.errors import VilaError
    from vila_core.store import open_store
    from vila_ops.web.audit_log import audit_findings, newest

    opened = open_store(store_uri(store))
    for entry in newest(opened, last):
        typer.echo(entry.model_dump_json())
    count, found = audit_findings(opened)
    for text in found:
        typer.echo(text)
    if found:
        raise VilaError(f"the audit log is not whole: {len(found)} findings in {count} entries")
    typer.echo(f"{count} entries, every chain is whole", err=bool(last))


def _require() -> None:
    from vila_core.errors import require

    for module in ("fastapi", "httpx", "jinja2", "joserfc", "uvicorn"):
        require(module, extra="web", why="show the dashboard")
