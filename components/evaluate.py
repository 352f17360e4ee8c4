"""Zero-shot, few-shot, blind and text-only metrics of one model."""

from kfp import dsl

from components._decorator import component


@component(role="eval")
def evaluate(
    context: str,
    task: str,
    config: str,
    data: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    results: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Zero-shot, few-shot, blind and text-only metrics of one model."""
    from components.runtime import run_stage

    run_stage(
        stage="evaluate",
        context=context,
        task=task,
        config=config,
        inputs={"data": data, "model": model},
        outputs={"results": results},
        metrics=metrics,
    )
