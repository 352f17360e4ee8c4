"""The base language model: trained here for the miniature world, or imported."""

from kfp import dsl

from components._decorator import component


@component(role="train")
def language_model(
    context: str,
    task: str,
    config: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
):
    """The base language model: trained here for the miniature world, or imported."""
    from components.runtime import run_stage

    run_stage(
        stage="language_model",
        context=context,
        task=task,
        config=config,
        inputs={},
        outputs={"model": model},
        metrics=metrics,
    )
