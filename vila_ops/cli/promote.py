"""`vila promote`, `vila rollback`, `vila registry approve|reject|withdraw`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vila_core.errors import EXIT_FAILED
from vila_ops.cli.options import JsonOption, StoreOption, store_uri

if TYPE_CHECKING:
    from vila_core.store import Store

WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="The reason, kept in the history.")
]
NameArgument = Annotated[str, typer.Argument(metavar="MODEL@N", help="MODEL@VERSION or @ALIAS.")]


def add(app: typer.Typer, registry: typer.Typer) -> None:
    """Add the commands to the application, and to its `registry` commands."""
    app.command()(promote)
    app.command()(rollback)
    registry.command()(approve)
    registry.command()(reject)
    registry.command()(withdraw)


def promote(
    what: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, RUN:TASK, MODEL@VERSION or MODEL@ALIAS.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="The alias to move.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model's name; default: the run's own.")
    ] = None,
    gates: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Gates; default: see the reference.")
    ] = None,
    why: WhyOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the gates, show what they say, move nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Move though gates fail: needs --why, marked for ever.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Move an alias to a run's model, if the gates pass.

    Exit code 0: promoted, or would be (--dry-run). 1: a gate failed. 2: a mistake of yours.
    """
    from components.registry.users import user_name
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.cli import judged
    from vila_ops.registry import promote as way

    if force and not why.strip():
        raise UserError("--force needs a reason, which is kept for ever; fix: --why TEXT.")
    opened, who = open_store(store_uri(store)), user_name()
    found = way.judge_promotion(opened, what, to, model=model, gates=gates, who=who, say=_note)
    if not json:
        judged.print_judgement(found)
    entry = None
    if not dry_run and not found.stands and (found.passed or force):
        _have_key()
        entry = way.promote(opened, found, why=why, who=who, force=force)
        _pass_on(opened)
    if json:
        _print_json(found.as_json() | {"entry": entry and entry.as_json(), "dry_run": dry_run})
    else:
        judged.print_outcome(found, entry, dry_run=dry_run)
    if entry is None and not found.passed and not found.stands:
        raise typer.Exit(EXIT_FAILED)


def rollback(
    name: Annotated[str, typer.Argument(metavar="MODEL@ALIAS", help="The alias to move back.")],
    why: WhyOption,
    to: Annotated[
        int | None, typer.Option(metavar="N", help="Version; default: the one before.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even to a rejected version: marked for ever.")
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Move an alias back to the version before, which is an entry of the history itself."""
    from components.registry.users import user_name
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.registry import promote as way

    model, _, alias = name.partition("@")
    if not model or not alias or alias.isdigit():
        raise UserError(f"{name}: names no alias; fix: MODEL@ALIAS, for example miniature@champion")
    opened = open_store(store_uri(store))
    _have_key()
    entry = way.rollback(opened, model, alias, why=why, who=user_name(), to=to, force=force)
    _pass_on(opened)
    if json:
        _print_json(entry.as_json())
        return
    typer.echo(
        f"{name} is back at version {entry.after} (from {entry.before}), entry {entry.seq} of the "
        f"history.\n  next: vila registry reject {model}@{entry.before} --why TEXT, if nobody "
        "should promote it again"
    )


def approve(
    name: NameArgument, why: WhyOption, json: JsonOption = False, store: StoreOption = None
) -> None:
    """Approve a version, for gates that ask for approvals."""
    _decide("approve", name, why, json, store)


def reject(
    name: NameArgument, why: WhyOption, json: JsonOption = False, store: StoreOption = None
) -> None:
    """Reject a version: it is promoted no more, until somebody approves it."""
    _decide("reject", name, why, json, store)


def withdraw(
    name: NameArgument, why: WhyOption, json: JsonOption = False, store: StoreOption = None
) -> None:
    """Take back your approval of a version."""
    _decide("withdraw", name, why, json, store)


def _decide(kind: str, name: str, why: str, json: bool, store: str | None) -> None:
    from components.registry.users import user_name
    from vila_core.store import open_store
    from vila_ops.registry import rollback as way

    decide = {"approve": way.approve, "reject": way.reject, "withdraw": way.withdraw}[kind]
    _have_key()
    opened = open_store(store_uri(store))
    entry = decide(opened, name, why=why, who=user_name())
    _pass_on(opened)
    if json:
        _print_json(entry.as_json())
        return
    model = name.partition("@")[0]
    told = {
        "approve": "approved",
        "reject": "rejected; aliases stay where they are",
        "withdraw": "no longer approved by you",
    }[kind]
    typer.echo(f"{model}@{entry.version} is {told} (entry {entry.seq} of the history).")


def _have_key() -> None:
    """Make this user's signing key on first use, and say so."""
    from components.registry.keys import first_key

    key, fresh = first_key()
    if key is not None and fresh:
        typer.echo(f"made a signing key for what you decide: {key.path}", err=True)


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _pass_on(store: Store) -> None:
    """Try webhooks for a moment; what they don't take now is tried again by others."""
    from vila_ops.registry.outbox import attempt

    attempt(store)


def _print_json(value: object) -> None:
    from vila_core.jsonio import dumps

    typer.echo(dumps(value, indent=2))
