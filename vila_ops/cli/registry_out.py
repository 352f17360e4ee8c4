"""What leaves the registry: `vila registry card`, `export` and `sync`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri

if TYPE_CHECKING:
    from vila_ops.registry.outbox import Delivered, Status

NameArgument = Annotated[
    str, typer.Argument(metavar="MODEL@X", help="MODEL@VERSION or MODEL@ALIAS.")
]


def add(app: typer.Typer) -> None:
    """Add the commands to those of the registry."""
    app.command()(card)
    app.command()(export)
    app.command()(sync)


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


def export(
    name: NameArgument,
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The new folder; it must not exist yet.")
    ],
    layout: Annotated[str, typer.Option(help="llava, vila15, transformers or transformers-4.52.")],
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest weight file, for example 5GB or 500MB.")
    ] = "5GB",
    allow_unsigned: Annotated[
        bool,
        typer.Option("--allow-unsigned", help="Take a version that nobody you trust has signed."),
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Export a version for another library, as a folder for the Hugging Face Hub.

    With card, record, signature and the proof that the library's logits are ours, which the
    registry keeps with the version.
    """
    from vila_core.store import open_store
    from vila_ops.registry import export as exports

    opened = open_store(store_uri(store))
    done = exports.export(
        opened, name, to, layout, max_shard_size=max_shard_size, allow_unsigned=allow_unsigned
    )
    proof = done.certificate
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps({"to": str(to), "version": done.version.name, "certificate": proof}))
        return
    typer.echo(
        f"exported {done.version.name} ({layout}) to {to}\n"
        f"  certified: logits differ by at most {proof['max_abs_difference']:.2g} from "
        f"{proof['compared_with']}\n  on {len(proof['prompts'])} prompts; the certificate is in "
        f"{to / 'certificate.json'} and in the registry"
    )


def sync(
    status: Annotated[
        bool, typer.Option("--status", help="Only show what is pending; deliver nothing.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--now", help="Try what failed now, not when its time has come.")
    ] = False,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="New targets get the whole history, not its future.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Deliver the registry's news to webhooks and mirrors, and show how far each has come.

    The targets are in the file that VILA_REGISTRY_CONFIG names. Exits with 1 where one is failing.
    """
    from vila_core.store import open_store
    from vila_ops.registry import outbox

    opened = open_store(store_uri(store))
    settings = outbox.read_settings()
    done = outbox.Delivered()
    if backfill:
        outbox.backfill(opened, settings)
    if not status:
        outbox.deliver(opened, settings, again=again, result=done)
    found = outbox.statuses(opened, settings)
    if json:
        from vila_core.jsonio import dumps

        value = {"sent": done.sent, "failed": done.failed, "targets": [s.as_json() for s in found]}
        typer.echo(dumps(value, indent=2))
    else:
        _print(done, found, any(True for _ in settings.targets()))
    if any(one.state in ("failing", "unreadable") for one in found):
        raise typer.Exit(1)


def _print(done: Delivered, found: list[Status], configured: bool) -> None:
    from rich.table import Table

    from vila_ops.cli.render import console

    if not configured:
        typer.echo("no target is configured; fix: name a file of them in VILA_REGISTRY_CONFIG")
        return
    for label in done.sent:
        typer.echo(f"delivered {label}")
    for line in done.failed:
        typer.echo(f"failed {line}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("target", "model", "state", "delivered", "pending", "next try"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(one.target, one.model, *_cells(one))
    console().print(table)
    for one in found:
        for lost in one.given_up:
            typer.echo(f"given up: {one.target} {one.model} {lost['seq']}: {lost['error']}")


def _cells(one: Status) -> list[Any]:
    from rich.text import Text

    colour = {"failing": "red", "unreadable": "red", "up to date": "green"}.get(one.state, "")
    when = (one.next_try or "-")[:19].replace("T", " ")
    pending = ", ".join(str(seq) for seq in one.pending[:5]) or "-"
    more = f" and {len(one.pending) - 5} more" if len(one.pending) > 5 else ""
    return [Text(one.state, colour), str(one.delivered), pending + more, when]
