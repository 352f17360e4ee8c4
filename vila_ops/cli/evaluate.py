"""`vila eval`: measure any model on the benchmarks of the field."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vila_ops.cli import on_cluster
from vila_ops.cli.execute import DetachOption, Runner, finish, go
from vila_ops.cli.on_cluster import ClusterOption
from vila_ops.cli.options import JsonOption, StoreOption, store_uri

if TYPE_CHECKING:
    from rich.table import Table


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("eval")(evaluate)


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="NAME@ALIAS or NAME@VERSION of the registry, a run, a folder (ours or of "
            "transformers), or URL#NAME of an OpenAI-compatible endpoint."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Official files, a folder per benchmark; or s3://bucket/prefix."
        ),
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Which ones.  [default: all that DIR has files of]"),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(metavar="0,4", help="Demonstrations.  [default: 0; text 5 or 3]"),
    ] = None,
    demos: Annotated[
        str, typer.Option(metavar="HOW", help="Demonstrations at random, or by rices.")
    ] = "random",
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Draws of the demonstrations.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Ask the first N questions only.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="URL#NAME", help="Endpoint that scores LLaVA-Bench and MM-Vet."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For all: blind=true; one: pope.limit=9."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the benchmarks.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run.")] = "eval",
    runner: Annotated[
        Runner, typer.Option(help="A process per benchmark, or all in this process.")
    ] = Runner.subprocess,
    cluster: ClusterOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Evaluate a model on the official files of benchmarks.

    One task per benchmark: what was measured before comes from the cache.
    """
    if list_:
        _list(json)
        return
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.assemble import assemble
    from vila_ops.evaluation import endpoint, nodes, plan_evaluation, subject
    from vila_ops.runs import create_run

    if model is None or data is None:
        raise UserError(
            "a model and its files are needed: vila eval MODEL --data DIR; "
            "the benchmarks: vila eval --list"
        )
    target = on_cluster.target(runner.value, cluster, store)
    opened = target.store if target else open_store(store_uri(store))
    settings = {
        "shots": _numbers(shots) if shots else None,
        "demos": {"how": demos, "seeds": list(range(seeds))},
        "limit": limit,
        "judge": endpoint(judge) if judge else None,
    }
    names = [part.strip() for part in (benchmarks or "").split(",") if part.strip()]
    asked = plan_evaluation(subject(opened, model), data, names, settings, set_ or [])
    recipe = assemble(
        name,
        nodes(asked),
        {each.task: each.config for each in asked},
        where="vila eval",
        description=f"{model} on {', '.join(each.name for each in asked)}",
        tracking={"wandb": "disabled"},
    )
    if target is not None:
        run_id = on_cluster.start(target, recipe, name, None, detach)
        return finish(opened, run_id, detach, json)
    run_id = create_run(opened, recipe, runner=runner.value, name=name, argv=sys.argv[1:])
    go(opened, run_id, detach, json)


def _numbers(text: str) -> list[int]:
    from vila_core.errors import UserError

    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--shots {text}: numbers with commas are needed, such as 0,4") from None
    if min(found) < 0:
        raise UserError(f"--shots {text}: a number of demonstrations is 0 or more")
    return found


def _list(json: bool) -> None:
    from vila_core.eval.benchmark import NAMES, TEXT_ONLY, benchmark
    from vila_core.eval.text_sets import TEXT_SETS

    rows = []
    for name in NAMES:
        if name in TEXT_ONLY:
            text = TEXT_SETS[name]
            rows.append((name, text.title, f"{text.headline} (%)", "extra harness"))
            continue
        found = benchmark(name)
        needs = "a judge" if found.judged else ""
        rows.append((name, found.title, f"{found.headline} ({found.headline_unit})", needs))
    if json:
        from vila_core.jsonio import dumps

        keys = ("name", "title", "metric", "needs")
        typer.echo(dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return
    from vila_ops.cli import render

    render.console().print(_table(rows))


def _table(rows: list[tuple[str, str, str, str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("benchmark", "what it is", "metric that papers print", "needs"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
