"""Corpora prepared by many machines: a loop over parts, and their merge."""

from typing import List  # noqa: UP035  KFP reads this form only

from kfp import dsl

from components.merge import merge as merge_op
from components.prepare_part import prepare_part as prepare_part_op


@dsl.pipeline(name="vila-prepare-parallel")
def prepare_parallel(
    context: str,
    prepare: str,
    partitions: List[str] = ["0/4", "1/4", "2/4", "3/4"],  # noqa: B006, UP006
):
    """Prepare corpora in parts side by side and join them: the bytes that one `prepare` writes.

    Args:
        context: JSON with the store, run id, recipe name and tracking mode.
        prepare: Config of the task `prepare` as JSON, without `partition`.
        partitions: The parts, each once, as `0/4`.
    """
    with dsl.ParallelFor(partitions) as partition:  # type: ignore[arg-type]
        part = prepare_part_op(context=context, task="prepare", config=prepare, partition=partition)
        part.set_display_name("prepare-part")
        part.set_caching_options(False)  # the step looks into our own cache
    joined = merge_op(
        context=context, task="merge", config="{}", parts=dsl.Collected(part.outputs["data"])
    )
    joined.set_display_name("merge")
    joined.set_caching_options(False)
