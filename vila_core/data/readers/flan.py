"""Text-only instructions in FLAN's style (JSON lines or parquet), and plain text.

Which pair of fields holds prompt and answer is looked up per record among the names in use:
`inputs` and `targets` (FLAN collection), `question` and `answer` (VILA's conversion), …. A record
with `text` alone is pre-training text: all of it is supervised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from vila_core.data.readers.common import Options, get_text
from vila_core.data.readers.records import BROKEN_RECORD, Broken
from vila_core.data.sample import Sample, Text, make_sample

if TYPE_CHECKING:
    import numpy as np

    from vila_core.data.readers.files import RecordFile

_PAIRS = (
    ("inputs", "targets"),
    ("question", "answer"),
    ("instruction", "output"),
    ("prompt", "completion"),
)
_META = ("id", "_task_source", "_task_name", "_template_type", "url")


class FlanOptions(Options):
    """Which records are read."""

    sample: int | None = Field(
        default=None, ge=1, description="take so many records, evenly spaced over all files"
    )


def select(files: Sequence[RecordFile], options: Options) -> dict[str, np.ndarray] | None:
    """Return the records to take by their positions, by shard; None for all. Raises UserError."""
    from vila_core.data.readers.positions import spread

    assert isinstance(options, FlanOptions)
    return None if options.sample is None else spread(files, options.sample)


def columns(options: Options) -> Sequence[frozenset[str]]:
    """Return what a table needs: a prompt with its answer, or text."""
    return [*map(frozenset, _PAIRS), frozenset({"text"})]


class Converter:
    """Makes text-only samples. There are no images."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        pass

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the sample of a record."""
        return _sample(key, record)


def _sample(key: str, record: Any) -> Sample:
    if not isinstance(record, dict):
        raise Broken(BROKEN_RECORD, f"an object is expected, found {type(record).__name__}")
    meta = {name: record[name] for name in _META if record.get(name) is not None}
    for prompt, answer in _PAIRS:
        if prompt in record and answer in record:
            parts = [
                Text(get_text(record, prompt), "user"),
                Text(get_text(record, answer), "assistant"),
            ]
            return make_sample(key, "text-only", parts, [], meta)
    if "text" in record:
        return make_sample(key, "text-only", [Text(get_text(record, "text"))], [], meta)
    pairs = ", ".join(" + ".join(pair) for pair in _PAIRS)
    raise Broken(BROKEN_RECORD, f"none of the fields {pairs}, text")
