"""Stage 2: train projector and language model on interleaved documents and pairs."""

from kfp import dsl

from components._decorator import component


@component(role="train")
def pretrain(
    context: str,
    task: str,
    config: str,
    data: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Stage 2: train projector and language model on interleaved documents and pairs."""
    from components.runtime import run_stage

    run_stage(
        stage="pretrain",
        context=context,
        task=task,
        config=config,
        inputs={"data": data, "base": base},
        outputs={"model": model},
        metrics=metrics,
    )
