from kfp import dsl

from components._decorator import component


@component(role="ops")
def toy_judge(
    context: str,
    task: str,
    config: str,
    model: dsl.Input[dsl.Model],
    results: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Results."""
    from components.runtime import run_stage

    run_stage(
        stage="toy_judge",
        context=context,
        task=task,
        config=config,
        inputs={"model": model},
        outputs={"results": results},
        metrics=metrics,
    )
