"""What of a prepared mixture carries loss, from the report that its task left beside the data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from vila_core.errors import StoreError
from vila_core.store import ArtifactRef, Store, read_file
from vila_ops.cli.plan import count
from vila_ops.view import RunView, TaskView

Reports = Mapping[str, Mapping[str, Any]]
"""{corpus: what `Supervision.to_json` gives} of one task."""


def reports(store: Store, run: RunView) -> dict[str, Reports]:
    """Return the reports of a run's prepare tasks, by task.

    A task that isn't done has none, nor has one whose data are no longer in the store.
    """
    found: dict[str, Reports] = {}
    for task in run.tasks:
        if task.stage == "prepare":
            corpora = _read(store, task)
            found |= {task.name: corpora} if corpora else {}
    return found


def tables(found: Mapping[str, Reports]) -> Iterator[Table]:
    """Yield a table per task, at most 80 columns wide: a row for each corpus and kind of sample."""
    for task, corpora in found.items():
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            title=f"{task}: text tokens that carry loss (image places are not counted)",
            title_justify="left",
            title_style="",
        )
        table.add_column("corpus", overflow="fold")
        table.add_column("kind", no_wrap=True)
        for column in ("samples", "tokens", "supervised", "share", "masked", "over"):
            table.add_column(column, no_wrap=True, justify="right")
        for corpus, report in corpora.items():
            for kind, tally in report["kinds"].items():
                numbers = (tally["samples"], tally["text_tokens"], tally["supervised"])
                aside = (tally["wholly_masked"], tally["over_limit"])
                share = f"{100 * tally['supervised_share']:.1f} %"
                table.add_row(corpus, kind, *map(count, numbers), share, *map(count, aside))
        yield table


def _read(store: Store, task: TaskView) -> Reports:
    for artifact in task.artifacts:
        if artifact["name"] == "data":
            ref = ArtifactRef(artifact["uri"], artifact["sha256"])
            try:
                report = json.loads(read_file(store, ref, "report.json"))
            except StoreError:
                return {}
            corpora = report["corpora"].items()
            return {name: one["supervision"] for name, one in corpora if "supervision" in one}
    return {}
