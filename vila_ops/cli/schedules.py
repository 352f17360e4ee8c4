"""`vila schedules`: recurring runs on clusters."""

from __future__ import annotations

from typing import Annotated

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri

app = typer.Typer(no_args_is_help=True, help="Recurring runs on clusters: list, stop.")


@app.command("list")
def list_(json: JsonOption = False, store: StoreOption = None) -> None:
    """List the schedules that have not been stopped; start one by: vila run --schedule CRON."""
    from vila_core.jsonio import dumps
    from vila_core.store import open_store
    from vila_ops.cluster.submit import schedules

    found = schedules(open_store(store_uri(store)))
    if json:
        keys = ("schedule", "cluster", "cron", "kfp", "submitted_at")
        typer.echo(dumps([{key: each[key] for key in keys} for each in found], indent=2))
        return
    for each in found:
        typer.echo(f"{each['schedule']}  {each['cron']}  cluster {each['cluster']}")


@app.command()
def stop(
    schedule: Annotated[str, typer.Argument(help="Id of the schedule.")],
    store: StoreOption = None,
) -> None:
    """Stop a schedule; runs that it has started go on."""
    from vila_core.store import open_store
    from vila_ops.cluster.submit import end_schedule

    end_schedule(open_store(store_uri(store)), schedule)
    typer.echo(f"stopped {schedule}; its runs stay: vila runs")
