"""Stage 1: train the projector alone on captions."""

from kfp import dsl

from components._decorator import component


@component(role="train")
def align(
    context: str,
    task: str,
    config: str,
    data: dsl.Input[dsl.Dataset],
    vision_tower: dsl.Input[dsl.Model],
    language_model: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """Stage 1: train the projector alone on captions."""
    from components.runtime import run_stage

    run_stage(
        stage="align",
        context=context,
        task=task,
        config=config,
        inputs={"data": data, "vision_tower": vision_tower, "language_model": language_model},
        outputs={"model": model},
        metrics=metrics,
    )
