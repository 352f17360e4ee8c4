"""The text `0/8`: the first of eight parts. What a loop of a pipeline hands to its iterations."""

from __future__ import annotations

import json
import re

from vila_core.errors import UserError

_FORM = re.compile(r"(\d{1,6})/(\d{1,6})")


def parse_partition(text: str) -> dict[str, int]:
    """Return `prepare.partition` of a text. Raises UserError for another form."""
    found = _FORM.fullmatch(text.strip())
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(
            f"partition '{text}': a number and how many there are is needed, from 0/8 to 7/8."
        )
    return {"index": int(found[1]), "of": int(found[2])}


def partitioned(task: str, config: str, partition: str) -> tuple[str, str]:
    """Return name and config of a task of prepare for one part. Raises UserError."""
    values = parse_partition(partition)
    name = f"{task}-{values['index']}-of-{values['of']}"
    return name, json.dumps({**json.loads(config), "partition": values})
