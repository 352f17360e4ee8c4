"""Corpora to shards with their index, and the evaluation sets."""

from kfp import dsl

from components._decorator import component


@component(role="data")
def prepare(
    context: str,
    task: str,
    config: str,
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """Corpora to shards with their index, and the evaluation sets."""
    from components.runtime import run_stage

    run_stage(
        stage="prepare",
        context=context,
        task=task,
        config=config,
        inputs={},
        outputs={"data": data},
        metrics=metrics,
    )
