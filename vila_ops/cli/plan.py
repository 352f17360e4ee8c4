"""`vila plan`: parameters, memory, time and cost of a recipe before it is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri

if TYPE_CHECKING:
    from rich.table import Table

    from vila_core.train.estimate import Memory
    from vila_ops.plan import Plan, StagePlan

GIB = 2**30
MIB = 2**20


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(plan)


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name, or path of a YAML file.")],
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", metavar="N", help="How many GPUs.  [default: one per rank of the recipe]"
        ),
    ] = None,
    gpu: Annotated[
        str, typer.Option("--gpu", help="h200, h100, a100-80, a100-40, l40s, or cpu.")
    ] = "h200",
    price: Annotated[
        float | None, typer.Option("--price", metavar="P", help="Of one GPU for one hour.")
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option("--mfu", metavar="SHARE", help="Share of the peak that training reaches."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Output of prepare.  [default: the recipe's newest in the store]",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PRESET", help="Plan with this model instead."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value; repeatable."),
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Say what a recipe's training needs: memory, tokens, hours and cost."""
    from vila_ops.plan import find_data, make_plan
    from vila_ops.recipes import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    made = make_plan(
        loaded,
        gpus=gpus,
        gpu=gpu,
        data=find_data(data, store_uri(store), loaded),
        mfu=mfu,
        price=price,
        model=model,
    )
    if json:
        from vila_core.jsonio import dumps

        typer.echo(dumps(made.as_json(), indent=2))
    else:
        _print(made)


def _print(plan: Plan) -> None:
    from rich.text import Text

    from vila_core.train.estimate import ERROR
    from vila_ops.cli.render import console

    out = console()

    def say(text: str, style: str = "") -> None:
        out.print(Text(text, style), soft_wrap=True)

    peaks = ", ".join(f"{peak / 1e12:.3g} TFLOP/s {name}" for name, peak in plan.gpu.peaks.items())
    nodes = max(stage.nodes for stage in plan.stages)
    on = f" ({nodes} nodes x {plan.gpus // nodes})" if nodes > 1 and not plan.gpus % nodes else ""
    say(f"{plan.recipe} on {plan.gpus} x {plan.gpu.name}{on}", "bold")
    say(f"  each:  {plan.gpu.memory / GIB:.1f} GiB, peak {peaks}")
    say(f"  model: {plan.model.name}")
    say(f"  data:  {plan.data}")
    say(f"  MFU:   {plan.mfu:g} ({plan.mfu_source})")
    out.print()
    out.print(_work_table(plan))
    for stage in plan.stages:
        out.print()
        trains = " and ".join(stage.trains)
        say(f"{stage.name}: {_unit(stage)} per rank, {stage.precision}; trains {trains}")
        out.print(_memory_table(plan, stage))
    out.print()
    low, high = ERROR
    say("* as the recipe sets it. (c): with activation checkpointing.", "dim")
    say(
        f"Memory estimate against measured: {low:+.0%} to {high:+.0%} on small models on CPU; "
        f"{1 - plan.room / plan.gpu.memory:.0%} of a GPU is left free.",
        "dim",
    )
    for stage in plan.stages:
        for note in stage.notes:
            say(f"{stage.name}: {note}", "yellow")


def _work_table(plan: Plan) -> Table:
    from rich.table import Table

    stages = plan.stages
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for stage in stages:
        table.add_column(stage.name, justify="right", no_wrap=True)
    table.add_column("total", justify="right", no_wrap=True)

    def row(name: str, value: Callable[[StagePlan], float | None], *, total: bool = False) -> None:
        values = [value(stage) for stage in stages]
        if any(one is None for one in values):
            return  # not known without the data
        summed = sum(one or 0 for one in values) if total else None
        table.add_row(name, *map(count, values), "" if summed is None else count(summed))

    row("parameters", lambda stage: stage.parameters)
    row("  trained", lambda stage: stage.trained)
    row("steps", lambda stage: stage.steps, total=True)
    row("packs per step", lambda stage: stage.packs_per_step)
    if any(stage.mixed for stage in stages):
        table.add_row("pack fill", *(_share(stage) for stage in stages), "")
    row("tokens per step", lambda stage: stage.load.tokens)
    row("  image", lambda stage: stage.image_tokens)
    row("  text", lambda stage: stage.text_tokens)
    row("  supervised", lambda stage: stage.load.supervised if stage.mixed else None)
    row("tokens in all", lambda stage: stage.steps * stage.load.tokens, total=True)
    row("  image", lambda stage: _times(stage.image_tokens, stage.steps), total=True)
    row("  text", lambda stage: _times(stage.text_tokens, stage.steps), total=True)
    row("FLOPs", lambda stage: stage.steps * stage.flops, total=True)
    table.add_row("time", *(_time(stage.seconds) for stage in stages), _time(plan.hours * 3600))
    row("GPU-hours", lambda stage: stage.seconds / 3600 * plan.gpus, total=True)
    if plan.gpu_hour_price is not None:
        costs = [stage.price or 0.0 for stage in stages]
        digits = 2 if sum(costs) >= 1 else 4
        table.add_row("cost", *(f"{one:,.{digits}f}" for one in (*costs, sum(costs))))
    return table


def _memory_table(plan: Plan, stage: StagePlan) -> Table:
    from rich.table import Table
    from rich.text import Text

    divisor = GIB if _unit(stage) == "GiB" else MIB
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for zero in range(len(stage.memory)):
        mark = " *" if zero == stage.zero_stage else ""
        table.add_column(f"ZeRO {zero}{mark}", justify="right", no_wrap=True, min_width=9)

    def row(name: str, value: Callable[[Memory], float]) -> None:
        table.add_row(name, *(f"{value(one) / divisor:,.1f}" for one in stage.memory))

    row("weights", lambda one: one.weights)
    row("gradients", lambda one: one.gradients)
    row("optimiser states", lambda one: one.optimizer)
    row("activations", lambda one: one.activations)
    row("activations (c)", lambda one: one.activations_checkpointed)
    row("logits", lambda one: one.logits)
    row("buckets, buffers", lambda one: one.buffers)
    marks = (" *", "") if not stage.checkpointing else ("", " *")
    row(f"total{marks[0]}", lambda one: one.total())
    row(f"total (c){marks[1]}", lambda one: one.total(checkpointing=True))
    verdicts = {
        "yes": ("yes", "green"),
        "checkpointed": ("only (c)", "yellow"),
        "no": ("no", "red"),
    }
    fits: Sequence[Text] = [Text(*verdicts[plan.fits(one)]) for one in stage.memory]
    table.add_row(f"fits {plan.gpu.name}", *fits)
    return table


def _times(value: float | None, steps: int) -> float | None:
    return None if value is None else value * steps


def _unit(stage: StagePlan) -> str:
    return "GiB" if max(memory.total() for memory in stage.memory) >= GIB else "MiB"


def _share(stage: StagePlan) -> str:
    return f"{stage.mixed.fill:.1%}" if stage.mixed else "-"


def _time(seconds: float) -> str:
    from vila_ops.cli.render import duration

    return duration(seconds)


def count(value: float | None) -> str:
    """Return a number as a table shows it: 950, 12,345, 7.05 B, 1.2e+21; nothing for None."""
    if value is None:
        return ""
    if value < 100 and value != int(value):
        return f"{value:.3g}"
    if value < 1e6:
        return f"{value:,.0f}"
    for size, unit in ((1e9, "M"), (1e12, "B"), (1e15, "T")):
        if value < size:
            return f"{value / (size / 1e3):.4g} {unit}"
    return f"{value:.3g}"
