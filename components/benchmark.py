"""One official benchmark, asked of a model of the run, of a folder, or of an endpoint."""

from kfp import dsl

from components._decorator import component


@component(role="eval")
def benchmark(
    context: str,
    task: str,
    config: str,
    results: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    model: dsl.Input[dsl.Model] = None,  # pyright: ignore[reportArgumentType]  KFP's "optional"
):
    """One official benchmark, asked of a model of the run, of a folder, or of an endpoint."""
    from components.runtime import run_stage

    run_stage(
        stage="benchmark",
        context=context,
        task=task,
        config=config,
        inputs={"model": model} if model else {},
        outputs={"results": results},
        metrics=metrics,
    )
