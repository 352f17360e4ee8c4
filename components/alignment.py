"""How alike images and captions are in each layer of a model."""

from kfp import dsl

from components._decorator import component


@component(role="eval")
def alignment(
    context: str,
    task: str,
    config: str,
    data: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    results: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """How alike images and captions are in each layer of a model."""
    from components.runtime import run_stage

    run_stage(
        stage="alignment",
        context=context,
        task=task,
        config=config,
        inputs={"data": data, "model": model},
        outputs={"results": results},
        metrics=metrics,
    )
