"""`vila registry key create|show|trust`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption

app = typer.Typer(
    help="The key that signs what you decide, and those that you trust.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def create(json: JsonOption = False) -> None:
    """Make your signing key, if you have none. Only you can read its file."""
    from components.registry import keys

    path = keys.own_key_path()
    fresh = not path.exists()
    key = keys.create_key(path) if fresh else keys.own_key()
    assert key is not None
    if json:
        _print_json({"key_id": key.key_id, "path": str(key.path), "fresh": fresh})
        return
    typer.echo(
        f"{'made' if fresh else 'there is already'} key {key.key_id[:16]} in {key.path}\n"
        "  next: vila registry key show, and give what it prints to those who shall trust it"
    )


@app.command()
def show(json: JsonOption = False) -> None:
    """Print your public key, and on stderr whom you trust."""
    from components.registry import keys
    from vila_core.errors import UserError

    own, trusted = keys.own_key(), keys.trusted_keys()
    if json:
        names = {key.key_id: key.name for key in trusted.values()}
        _print_json(
            {
                "own": own and {"key_id": own.key_id, "public": own.public_pem()},
                "trusted": names,
                "path": str(keys.own_key_path()),
            }
        )
        return
    for key in sorted(trusted.values(), key=lambda one: one.name):
        typer.echo(f"trusted: {key.key_id[:16]} {key.name}", err=True)
    if own is None:
        raise UserError(f"there is no key in {keys.own_key_path()}; fix: vila registry key create")
    typer.echo(own.public_pem(), nl=False)


@app.command()
def trust(
    file: Annotated[Path, typer.Argument(help="A public key (PEM), from 'key show'.")],
    name: Annotated[str, typer.Option(help="Whose it is; default: the file's name.")] = "",
    json: JsonOption = False,
) -> None:
    """Believe what somebody else's key has signed.

    From the first trusted key on, versions must be signed to be pulled or served.
    """
    from components.registry import keys

    key = keys.trust(file, name)
    if json:
        _print_json({"key_id": key.key_id, "name": key.name})
    else:
        typer.echo(f"key {key.key_id[:16]} is trusted now, as {key.name}")


def _print_json(value: object) -> None:
    from vila_core.jsonio import dumps

    typer.echo(dumps(value, indent=2))
