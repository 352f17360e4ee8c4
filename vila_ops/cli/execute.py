"""`vila run`, `vila resume` and `vila stop`."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from vila_ops.cli import on_cluster
from vila_ops.cli.on_cluster import ClusterOption, ExperimentOption
from vila_ops.cli.options import JsonOption, RunArgument, StoreOption, store_uri

if TYPE_CHECKING:
    from vila_core.store import Store
    from vila_ops.recipes import Recipe


class Runner(StrEnum):
    """Where the tasks of a run are executed."""

    subprocess = "subprocess"
    inline = "inline"
    container = "container"
    cluster = "cluster"


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
        Runner,
        typer.Option(
            help="A process or container per task, all tasks in this process, or a cluster's pods."
        ),
    ] = Runner.subprocess,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="ROLE=REF", help="Image of data, train, eval or ops."),
    ] = None,
    cluster: ClusterOption = None,
    experiment: ExperimentOption = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="CRON", help="On a cluster: run again and again, e.g. '0 3 * * *' (UTC)."
        ),
    ] = None,
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
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.recipes import load_recipe
    from vila_ops.runs import create_run

    resolved = load_recipe(recipe, set_ or [])
    target = on_cluster.target(runner.value, cluster, store)
    if target is None and (schedule or experiment):
        raise UserError("--schedule and --experiment go with: --runner cluster")
    if target is not None and schedule is not None:
        return on_cluster.schedule(target, resolved, name, experiment, schedule)
    if target is not None:
        run_id = on_cluster.start(target, resolved, name, experiment, detach)
        return finish(target.store, run_id, detach, json)
    opened = open_store(store_uri(store))
    images = check_images(resolved, image or []) if runner is Runner.container else None
    run_id = create_run(
        opened, resolved, runner=runner.value, name=name, argv=sys.argv[1:], images=images
    )
    go(opened, run_id, detach, json)


def resume(
    run_id: RunArgument,
    cluster: ClusterOption = None,
    experiment: ExperimentOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Continue a run that did not succeed.

    What is finished is kept; training goes on from its last checkpoint.
    """
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.runs import check_resumable, find_run, load_view

    opened = open_store(store_uri(store))
    found = find_run(opened, run_id)
    if load_view(opened, found).runner == "cluster":
        on_cluster.resume(opened, found, cluster, experiment, detach)
        return finish(opened, found, detach, json)
    if cluster is not None:
        raise UserError(f"--cluster: run {found} is none of a cluster.")
    check_resumable(opened, found)
    go(opened, found, detach, json)


def stop(run_id: RunArgument, store: StoreOption = None) -> None:
    """Stop a run and everything it started."""
    from vila_core.store import open_store
    from vila_ops.runs import find_run, load_view, stop_run

    opened = open_store(store_uri(store))
    found = find_run(opened, run_id)
    if load_view(opened, found).runner == "cluster":
        from vila_ops.cluster import follow

        follow.stop(opened, found, say=lambda text: typer.echo(text, err=True))
    else:
        stop_run(opened, found)
    typer.echo(f"stopped {found}; continue it with: vila resume {found}")


def check_images(recipe: Recipe, given: list[str]) -> dict[str, str]:
    """Return the image of each role, once they are found to be there and to hold this code."""
    from vila_ops.driver import images
    from vila_ops.driver.engine import Engine

    refs = images.chosen(given)
    for note in images.check_images(Engine.find(), recipe.graph, refs).notes:
        typer.echo(f"note: {note}", err=True)
    return refs


def go(store: Store, run_id: str, detach: bool, json: bool) -> None:
    """Drive a run in the background, or here with a live display; exit as the run ended."""
    from vila_ops.cli import follow
    from vila_ops.driver.run import drive, spawn

    if detach:
        spawn(store, run_id)
        return _print_id(run_id, json)
    with follow.display(store, run_id, quiet=json):
        status = drive(store, run_id)
    _print_end(store, run_id, status, json)


def finish(store: Store, run_id: str, detach: bool, json: bool) -> None:
    """Show a run that was submitted to a cluster until it ends, unless detached; exit as it did."""
    if detach:
        return _print_id(run_id, json)
    _print_end(store, run_id, on_cluster.follow(store, run_id, quiet=json), json)


def _print_id(run_id: str, json: bool) -> None:
    typer.echo(_json({"run_id": run_id}) if json else run_id)


def _print_end(store: Store, run_id: str, status: str, json: bool) -> None:
    from vila_core.errors import EXIT_FAILED
    from vila_ops.cli import follow
    from vila_ops.driver.run import EXIT_CODES

    if json:
        from vila_ops.runs import load_view

        typer.echo(_json(load_view(store, run_id).as_json()))
    else:
        follow.print_result(store, run_id)
    raise typer.Exit(EXIT_CODES.get(status, EXIT_FAILED))


def _json(value: object) -> str:
    from vila_core.jsonio import dumps

    return dumps(value, indent=2)
