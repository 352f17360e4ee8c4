"""`vila verify`: what a run promises, proven again."""

from __future__ import annotations

from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption, RunArgument, StoreOption, store_uri

app = typer.Typer(help="Prove again what a run promises.", no_args_is_help=True)


def add(parent: typer.Typer) -> None:
    """Add the commands to the application."""
    parent.add_typer(app, name="verify")


@app.callback()
def _group() -> None:
    """Prove again what a run promises."""


@app.command()
def resume(
    run_id: RunArgument,
    task: Annotated[
        str | None, typer.Option("--task", help="The training task; default: the last one.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Longest window that is replayed.")
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Replay a window from a checkpoint; certify equal bits, or name what differs first.

    Exit code 0: equal, 1: different. The certificate is kept in the run's record.
    """
    from vila_core.jsonio import dumps
    from vila_core.store import open_store
    from vila_ops.runs import find_run
    from vila_ops.verify_resume import verify_resume

    opened = open_store(store_uri(store))
    say = (lambda _: None) if json else typer.echo
    found = verify_resume(opened, find_run(opened, run_id), task, steps=steps, say=say)
    typer.echo(dumps(found.as_json(), indent=2) if json else found.text())
    if not found.equal:
        raise typer.Exit(1)


@app.command()
def parity(
    run_id: RunArgument,
    against: Annotated[
        str, typer.Option("--against", metavar="RUN", help="The run to compare with.")
    ],
    against_store: Annotated[
        str | None,
        typer.Option("--against-store", metavar="URI", help="Its store; default: the same."),
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Compare the artifacts of two runs, task by task: say, of two runners.

    Exit code 0: equal, 1: different. The certificate is kept in the record of RUN.
    """
    from vila_core.jsonio import dumps
    from vila_core.store import open_store
    from vila_ops.runs import find_run
    from vila_ops.verify_parity import verify_parity

    opened = open_store(store_uri(store))
    other = opened if against_store is None else open_store(against_store)
    found = verify_parity(opened, find_run(opened, run_id), other, find_run(other, against))
    typer.echo(dumps(found.as_json(), indent=2) if json else found.text())
    if not found.equal:
        raise typer.Exit(1)
