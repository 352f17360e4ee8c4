"""`vila runs`, `show`, `logs` and `why`: what happened, and why."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from vila_ops.cli import noise
from vila_ops.cli.compare import compare
from vila_ops.cli.options import JsonOption, RunArgument, StoreOption, store_uri

NEWEST = 20
"""Runs that `vila runs` shows unless it is asked for more."""


class RunStatus(StrEnum):
    """How a run is doing, or ended."""

    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    stopped = "stopped"
    interrupted = "interrupted"


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (runs, show, logs, why, compare):
        app.command()(command)
    app.add_typer(noise.app, name="noise")


def runs(
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=0,
            metavar="N",
            help="The newest N; 0 is all.  [default: 20, with --json all]",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="TEXT", help="Only runs with this in id or recipe.")
    ] = "",
    status: Annotated[
        list[RunStatus] | None, typer.Option("--status", help="Only these; may be repeated.")
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List the runs, newest first."""
    from vila_core.store import open_store
    from vila_ops.cli import render
    from vila_ops.run_index import RunIndex

    uri = store_uri(store)
    opened = open_store(uri)
    index = RunIndex(opened, say=_note)
    most = (0 if json else NEWEST) if limit is None else limit
    statuses = {one.value for one in status} if status else None
    found = index.list(limit=most or None, statuses=statuses, name=name)
    rows = found.rows
    if any(row.runner == "cluster" and row.status not in ("succeeded", "stopped") for row in rows):
        from vila_ops.cluster.follow import current_rows

        rows = current_rows(opened, rows)
    if json:
        _print_json([run.as_row() for run in rows])
    elif not rows:
        what = "such runs" if name or statuses else "runs"
        hint = "see: vila runs" if name or statuses else "start one with: vila run quickstart"
        typer.echo(f"no {what} in {uri} yet; {hint}")
    else:
        render.print_runs(rows)
        if len(rows) < found.found:
            _note(f"the newest {len(rows)} of {found.found:,}; all: vila runs --limit 0")
    for run_id, why in sorted(found.unreadable.items()):
        _note(f"runs/{run_id}: can't be read: {why}")
    index.write()


def show(run_id: RunArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Show a run: tasks, times, losses, accuracies, and what of its data carries loss."""
    from vila_core.store import open_store
    from vila_ops.cli import on_cluster, render, scores, supervised
    from vila_ops.runs import find_run, load_view

    opened = open_store(store_uri(store))
    view, told = on_cluster.look(opened, load_view(opened, find_run(opened, run_id)))
    if json:
        more = told.as_json() if told else {}
        _print_json({**view.as_json(), "supervision": supervised.reports(opened, view), **more})
    else:
        tables = [
            *supervised.tables(supervised.reports(opened, view)),
            *scores.tables(scores.summaries(opened, view)),
        ]
        render.print_run(view, [*([told.text()] if told else []), *tables])


def logs(
    run_id: RunArgument,
    task: Annotated[str | None, typer.Argument(help="Name of a task; default: all.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Print the log of one task, or of all."""
    from vila_core.store import open_store
    from vila_ops.logs import log_lines
    from vila_ops.runs import find_run, load_view

    opened = open_store(store_uri(store))
    found = find_run(opened, run_id)
    read = load_view
    if follow and load_view(opened, found).runner == "cluster":
        from vila_ops.cluster.follow import Watched

        read = Watched()
    for line in log_lines(opened, found, task, follow=follow, read=read):
        typer.echo(line)


def why(
    run_id: RunArgument,
    task: Annotated[str, typer.Argument(help="Name of a task.")],
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Say why a task ran, or from where its result came."""
    from vila_core.store import open_store
    from vila_ops.runs import find_run
    from vila_ops.why import explain

    opened = open_store(store_uri(store))
    reason = explain(opened, find_run(opened, run_id), task)
    if json:
        _print_json(reason.as_json())
    else:
        typer.echo(reason.text())


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _print_json(value: object) -> None:
    from vila_core.jsonio import dumps

    typer.echo(dumps(value, indent=2))
