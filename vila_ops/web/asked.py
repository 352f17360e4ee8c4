"""Questions as they were asked, for pages and for the API."""

from __future__ import annotations

from urllib.parse import quote

from vila_core.errors import Damaged, NotFound, UserError
from vila_ops.comparing.chosen import Chosen
from vila_ops.comparing.disagreements import Disagreement
from vila_ops.samples import Sample, Samples, Shown


def question_of(row: Disagreement, run: Chosen, samples: Samples) -> tuple[Sample | None, str]:
    """Return a question as it was asked, or why it can't be shown."""
    try:
        found = samples.of_record(run.view.run_id, row.task, row.record)
    except (UserError, NotFound, Damaged) as error:
        return None, str(error)
    note = "" if found.as_asked is not False else "It was asked in other words than these."
    return found, note


def image_path(image: Shown) -> str:
    """Return where a sample's image is shown."""
    return f"/samples/{image.artifact}/{quote(image.path)}"
