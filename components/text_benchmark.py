"""MMLU, BBH or DROP, asked of a model of the run, of a folder, or of an endpoint."""

from kfp import dsl

from components._decorator import component


@component(role="eval")
def text_benchmark(
    context: str,
    task: str,
    config: str,
    results: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    model: dsl.Input[dsl.Model] = None,  # pyright: ignore[reportArgumentType]  KFP's "optional"
):
    """MMLU, BBH or DROP, asked of a model of the run, of a folder, or of an endpoint."""
    from components.runtime import run_stage

    run_stage(
        stage="text_benchmark",
        context=context,
        task=task,
        config=config,
        inputs={"model": model} if model else {},
        outputs={"results": results},
        metrics=metrics,
    )
