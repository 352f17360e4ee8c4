"""One part of the corpora, as `prepare` makes it: what the iterations of a ParallelFor do."""

from kfp import dsl

from components._decorator import component


@component(role="data")
def prepare_part(
    context: str,
    task: str,
    config: str,
    partition: str,
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
):
    """One part of the corpora; `partition` is its number and how many there are, as `0/8`."""
    from components.partition import partitioned
    from components.runtime import run_stage

    task, config = partitioned(task, config, partition)
    run_stage(
        stage="prepare",
        context=context,
        task=task,
        config=config,
        inputs={},
        outputs={"data": data},
        metrics=metrics,
    )
