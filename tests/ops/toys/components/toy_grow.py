from kfp import dsl

from components._decorator import component


@component(role="ops")
def toy_grow(
    context: str,
    task: str,
    config: str,
    data: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """A model."""
    from components.runtime import run_stage

    run_stage(
        stage="toy_grow",
        context=context,
        task=task,
        config=config,
        inputs={"data": data},
        outputs={"model": model},
        metrics=metrics,
    )
