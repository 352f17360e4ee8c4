from kfp import dsl

from components._decorator import component


@component(role="ops")
def toy_source(
    context: str,
    task: str,
    config: str,
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Numbers."""
    from components.runtime import run_stage

    run_stage(
        stage="toy_source",
        context=context,
        task=task,
        config=config,
        inputs={},
        outputs={"data": data},
        metrics=metrics,
    )
