"""Stage 3: instruction tuning, visual instructions blended with text-only ones."""

from kfp import dsl

from components._decorator import component


@component(role="train")
def sft(
    context: str,
    task: str,
    config: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Stage 3: instruction tuning, visual instructions blended with text-only ones."""
    from components.runtime import run_stage

    run_stage(
        stage="sft",
        context=context,
        task=task,
        config=config,
        inputs={"data": data, "base": base},
        outputs={"model": model},
        metrics=metrics,
    )
