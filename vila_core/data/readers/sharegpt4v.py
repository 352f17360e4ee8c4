"""ShareGPT4V: LLaVA's format, without the items that VILA removed.

VILA took out items with images of SAM and items with repetitive replies (100K -> 96K and 1.2M ->
1.17M). Its rule for the latter is not published; ours is that some run of words occurs again and
again in a reply.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from vila_core.data.readers import llava
from vila_core.data.readers.common import Options
from vila_core.data.readers.records import Filtered
from vila_core.data.sample import Sample, Text


class ShareGpt4vOptions(llava.LlavaOptions):
    """Which items are read."""

    keep_sam: bool = Field(default=False, description="keep items with images of SAM")
    max_repeats: int | None = Field(
        default=3,
        ge=1,
        description="times that a run of words may occur in a reply; null keeps all items",
    )
    repeat_words: int = Field(default=8, ge=1, description="length of such a run, in words")


class Converter:
    """Makes conversations. `images` defaults to the folder `images` beside the file."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, ShareGpt4vOptions)
        self._convert, self._options = llava.Converter(path, images, options), options

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the conversation of a record. Raises Filtered for what VILA removed."""
        options = self._options
        # First, as who leaves SAM out does not have its images either.
        if not options.keep_sam and (name := _sam(record)):
            raise Filtered("keep_sam", name)
        sample = self._convert(key, record)
        if options.max_repeats is not None:
            for part in sample.parts:
                if isinstance(part, Text) and part.role == "assistant":
                    _refuse_repeats(part.text, options.repeat_words, options.max_repeats)
        return sample


def _sam(record: Any) -> str | None:
    """Return the id or image name by which a record is SAM's: `sa_223750`, `sam/images/…`."""
    if not isinstance(record, dict):
        return None
    images = record.get("image")
    names = [record.get("id"), *(images if isinstance(images, list) else [images])]
    for name in names:
        if isinstance(name, str):
            path = PurePosixPath(name)
            if path.name.startswith("sa_") or path.parts[:1] == ("sam",):
                return name
    return None


def _refuse_repeats(text: str, length: int, most: int) -> None:
    words = text.split()
    if len(words) < length + most:
        return
    runs = Counter(zip(*(words[start:] for start in range(length)), strict=False))
    run, times = runs.most_common(1)[0]
    if times > most:
        raise Filtered("max_repeats", f"{times} times: {' '.join(run)}")
