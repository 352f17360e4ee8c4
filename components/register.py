"""Register the model as a version; move the alias when the gate passes."""

from kfp import dsl

from components._decorator import component


@component(role="ops")
def register(
    context: str,
    task: str,
    config: str,
    model: dsl.Input[dsl.Model],
    results: dsl.Input[dsl.Artifact],
    baseline: dsl.Input[dsl.Artifact],
    version: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Register the model as a version; move the alias when the gate passes."""
    from components.runtime import run_stage

    run_stage(
        stage="register",
        context=context,
        task=task,
        config=config,
        inputs={"model": model, "results": results, "baseline": baseline},
        outputs={"version": version},
        metrics=metrics,
    )
