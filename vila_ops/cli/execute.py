"""`vila run`, `vila resume` and `vila stop`."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from vila_ops.cli.options import JsonOption, RunArgument, StoreOption, store_uri

if TYPE_CHECKING:
    from vila_core.store import Store


class Runner(StrEnum):
    """Where the tasks of a run are executed."""

    subprocess = "subprocess"
    inline = "inline"


DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="Run in the background; print the run id.")
]


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(run)
    app.command()(resume)
    app.command()(stop)


def run(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or path of its YAML file.")],
    runner: Annotated[
        Runner, typer.Option(help="A process per task, or all tasks in this process.")
    ] = Runner.subprocess,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. sft.train.lr=0.001."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; default: the recipe's.")
    ] = None,
    detach: DetachOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Run a recipe.

    Tasks whose config, inputs and code did not change come from the cache.
    """
    from vila_core.store import open_store
    from vila_ops.recipes import load_recipe
    from vila_ops.runs import create_run

    resolved = load_recipe(recipe, set_ or [])
    opened = open_store(store_uri(store))
    run_id = create_run(opened, resolved, runner=runner.value, name=name, argv=sys.argv[1:])
    go(opened, run_id, detach, json)


def resume(
    run_id: RunArgument,
    detach: DetachOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Continue a run that did not succeed.

    What is finished is kept; training goes on from its last checkpoint.
    """
    from vila_core.store import open_store
    from vila_ops.runs import check_resumable, find_run

    opened = open_store(store_uri(store))
    found = find_run(opened, run_id)
    check_resumable(opened, found)
    go(opened, found, detach, json)


def stop(run_id: RunArgument, store: StoreOption = None) -> None:
    """Stop a run and everything it started."""
    from vila_core.store import open_store
    from vila_ops.runs import find_run, stop_run

    opened = open_store(store_uri(store))
    found = find_run(opened, run_id)
    stop_run(opened, found)
    typer.echo(f"stopped {found}; continue it with: vila resume {found}")


def go(store: Store, run_id: str, detach: bool, json: bool) -> None:
    """Drive a run in the background, or here with a live display; exit as the run ended."""
    from vila_ops.cli import follow
    from vila_ops.driver.run import EXIT_CODES, drive, spawn

    if detach:
        spawn(store, run_id)
        typer.echo(_json({"run_id": run_id}) if json else run_id)
        return
    with follow.display(store, run_id, quiet=json):
        status = drive(store, run_id)
    if json:
        from vila_ops.runs import load_view

        typer.echo(_json(load_view(store, run_id).as_json()))
    else:
        follow.print_result(store, run_id)
    raise typer.Exit(EXIT_CODES[status])


def _json(value: object) -> str:
    from vila_core.jsonio import dumps

    return dumps(value, indent=2)
