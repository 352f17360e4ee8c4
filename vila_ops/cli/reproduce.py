"""`vila reproduce`: a finding of the paper as an ablation, with effect, interval and verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vila_ops.cli import on_cluster
from vila_ops.cli.execute import DetachOption, Runner
from vila_ops.cli.on_cluster import ClusterOption
from vila_ops.cli.options import StoreOption, store_uri

if TYPE_CHECKING:
    from vila_core.store import Store
    from vila_ops.reproduce.config import Plan


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(reproduce)


def reproduce(
    findings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FINDING...",
            help="freezing, interleaving, blending, projector, images-first, alignment; or the "
            "path of a YAML file.",
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(help="miniature, small or paper; or the path of a YAML file.")
    ] = "miniature",
    seeds: Annotated[int, typer.Option(help="How many seeds: 0, 1, 2, ...")] = 3,
    first_seed: Annotated[int, typer.Option(help="Begin with another seed than 0.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the size."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the reports there too.", file_okay=False),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Go on with this run if it has not succeeded, and report it."
        ),
    ] = None,
    runner: Annotated[
        Runner, typer.Option(help="A process per task, or all tasks in this process.")
    ] = Runner.subprocess,
    cluster: ClusterOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the tasks; run none.")
    ] = False,
    detach: DetachOption = False,
    store: StoreOption = None,
) -> None:
    """Reproduce findings of the paper: arms x seeds as one pipeline, and a report for each finding.

    What several findings or arms share is trained once; what an earlier run has is not run again.
    """
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.reproduce import runs
    from vila_ops.runs import find_run, load_view

    target = on_cluster.target(runner.value, cluster, store)
    opened = target.store if target else open_store(store_uri(store))
    if run is not None:
        if findings or set_:
            raise UserError("--run takes findings, size and overrides from the run; leave them out")
        run_id = find_run(opened, run)
        runs.plan_of(opened, run_id)
    else:
        plan = _plan(findings, size, seeds, first_seed, set_)
        if dry_run:
            _list(plan)
            return
        run_id = runs.begin(opened, plan, runner=runner.value, name=name, argv=sys.argv[1:])
        if target is not None:
            on_cluster.submit(target, run_id, detach)
    if detach:
        from vila_ops.driver.run import spawn

        if target is None and load_view(opened, run_id).runner == "cluster":
            on_cluster.resume(opened, run_id, None, None, detach=True)
        elif target is None:
            spawn(opened, run_id)
        typer.echo(f"{run_id}\nreport it when it has ended: vila reproduce --run {run_id}")
        return
    raise typer.Exit(_go(opened, run_id, report))


def _plan(
    findings: list[str] | None, size: str, seeds: int, first_seed: int, set_: list[str] | None
) -> Plan:
    from vila_core.errors import UserError
    from vila_ops.reproduce.config import finding_files, load_plan

    if not findings:
        raise UserError(f"which finding? known: {', '.join(finding_files())}.")
    return load_plan(findings, size, seeds, set_ or [], first_seed=first_seed)


def _list(plan: Plan) -> None:
    from vila_ops.reproduce.grid import build_grid
    from vila_ops.reproduce.runs import recipe_of

    recipe = recipe_of(plan, build_grid(plan))
    for task in recipe.graph.tasks.values():
        typer.echo(f"{task.name}  ({task.stage})")
    typer.echo(f"{len(recipe.graph.tasks)} tasks, {plan.seeds} seeds")


def _go(store: Store, run_id: str, report: Path | None) -> int:
    """Drive the run if it has not succeeded, and write its reports; return the exit code."""
    from vila_ops.cli import follow
    from vila_ops.driver.run import EXIT_CODES, drive
    from vila_ops.noise import add_reproduction
    from vila_ops.reproduce.output import write_reports
    from vila_ops.runs import load_view

    view = load_view(store, run_id)
    if view.status != "succeeded":
        if view.runner == "cluster":
            status = on_cluster.go_on(store, run_id)
        else:
            with follow.display(store, run_id):
                status = drive(store, run_id)
        if status != "succeeded":
            follow.print_result(store, run_id)
            typer.echo(f"go on and report: vila reproduce --run {run_id}")
            return EXIT_CODES.get(status, 1)
    for line in write_reports(store, run_id, report):
        typer.echo(line)
    added = add_reproduction(store, run_id)
    if added.new:
        typer.echo(
            f"{added.new} trained models are new in the ledger of seed noise: vila noise show"
        )
    return 0
