"""`vila doctor`: what is installed, what is reachable, what to do about it."""

from __future__ import annotations

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri

SIGNS = {
    "ok": ("ok", "green"),
    "note": ("-", "dim"),
    "warning": ("!", "yellow"),
    "error": ("x", "red"),
    "unknown": ("?", "yellow"),
}


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor(store: StoreOption = None, json: JsonOption = False) -> None:
    """Check installation, store and machine.

    Exit code 1 when something is broken; each finding comes with its fix.
    """
    from vila_ops.doctor import examine

    checks = []
    for check in examine(store_uri(store)):
        checks.append(check)
        if not json:
            _print(check.name, check.level, check.detail, check.fix)
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps([check.as_json() for check in checks], indent=2))
    if any(check.level == "error" for check in checks):
        raise typer.Exit(1)


def _print(name: str, level: str, detail: str, fix: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from vila_ops.cli.render import console

    sign, style = SIGNS[level]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=2)
    row.add_column(width=16, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(sign, style), name, Text(detail) if not fix else Text(f"{detail}\nfix: {fix}"))
    console().print(row)
