"""The `vila` command. Its modules import nothing heavy at their top, so that help comes at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from vila_core.errors import EXIT_FAILED, EXIT_INTERRUPTED, VilaError
from vila_ops.cli import (
    ask,
    cluster,
    dashboard,
    data,
    doctor,
    evaluate,
    exchange,
    execute,
    inspect,
    lineage,
    plan,
    promote,
    registry,
    registry_out,
    reproduce,
    schedules,
    serve,
    verify,
)

app = typer.Typer(
    name="vila",
    help="Pre-train visual language models by VILA's recipe, from a laptop to a GPU cluster.",
    epilog="Exit codes: 0 success, 1 the run failed, 2 a mistake of yours, 130 stopped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from vila_core import __version__

        typer.echo(f"vila {__version__}")
        raise typer.Exit


@app.callback()
def options(
    store: Annotated[
        str | None, typer.Option("--store", metavar="URI", help="Where runs are kept.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that may stand before the command."""
    if store:
        os.environ["VILA_STORE"] = store


execute.add(app)
plan.add(app)
reproduce.add(app)
inspect.add(app)
lineage.add(app)
app.add_typer(data.app, name="data")
registry_out.add(registry.app)
app.add_typer(registry.app, name="registry")
app.add_typer(cluster.app, name="cluster")
app.add_typer(dashboard.app, name="dashboard")
app.add_typer(schedules.app, name="schedules")
ask.add(app)
serve.add(app)
evaluate.add(app)
exchange.add(app)
doctor.add(app)
verify.add(app)
promote.add(app, registry.app)


def main() -> None:
    """Run the command line; a failure is one message on stderr and an exit code."""
    try:
        app(prog_name="vila")
    except VilaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # `vila runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
