"""All parts of a prepare to one set of corpora."""

from typing import List  # noqa: UP035  KFP reads this form only

from kfp import dsl

from components._decorator import component


@component(role="data")
def merge(
    context: str,
    task: str,
    config: str,
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """All parts of a prepare to one set of corpora."""
    from components.runtime import run_stage

    run_stage(
        stage="merge",
        context=context,
        task=task,
        config=config,
        inputs={f"part-{number:05d}": part for number, part in enumerate(parts)},
        outputs={"data": data},
        metrics=metrics,
    )
