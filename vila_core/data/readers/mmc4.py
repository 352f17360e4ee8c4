"""MMC4: web documents as JSON lines, images in a folder by `image_name`.

Layout as in VILA's released code: sentences joined by one blank; each image directly in front of
its matched sentence, blanks around it removed; the first six images of a document in page order. A
document survives only with all the images that are used. Unlike there, nothing is changed in place,
and images at the same sentence keep page order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vila_core.data.readers.common import (
    BROKEN_RECORD,
    EMPTY_TEXT,
    ImageFolder,
    Options,
    get,
    image_folder,
)
from vila_core.data.readers.files import Broken
from vila_core.data.sample import Image, Part, Sample, Text, make_sample


class Mmc4Options(Options):
    """How documents are read."""

    max_images: int = Field(
        default=6, ge=1, description="images used per document, the first in page order"
    )
    min_similarity: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="images matched to their sentence less well are left out",
    )


class Converter:
    """Makes interleaved documents. `images` defaults to the folder `images` beside the file."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, Mmc4Options)
        self._folder, self._options = ImageFolder(image_folder(path, images)), options

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the document of a record."""
        return _sample(key, record, self._folder, self._options)


def _sample(key: str, record: Any, folder: ImageFolder, options: Mmc4Options) -> Sample:
    sentences = get(record, "text_list", list)
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise Broken(BROKEN_RECORD, "'text_list' holds something other than text")
    if not any(sentence.strip() for sentence in sentences):
        raise Broken(EMPTY_TEXT, "'text_list'")
    used = [
        info
        for info in get(record, "image_info", list)
        if _similarity(info) >= options.min_similarity
    ][: options.max_images]
    for info in used:
        if not 0 <= get(info, "matched_text_index", int) < len(sentences):
            raise Broken(
                BROKEN_RECORD,
                f"matched_text_index {info['matched_text_index']}, {len(sentences)} sentences",
            )
    used.sort(key=lambda info: info["matched_text_index"])  # stable: page order among equals
    files = [folder.read(get(info, "image_name", str)) for info in used]
    parts = _interleave(sentences, [info["matched_text_index"] for info in used])
    names = ("image_name", "raw_url", "matched_sim")
    meta = {
        "url": record.get("url"),
        "images": [{name: info.get(name) for name in names} for info in used],
    }
    return make_sample(key, "interleaved" if files else "text-only", parts, files, meta)


def _interleave(sentences: list[str], places: list[int]) -> list[Part]:
    """Return text and images in order; `places` are the sentences that images stand before."""
    parts: list[Part] = []
    text, image = "", 0
    for number, sentence in enumerate(sentences):
        while image < len(places) and places[image] == number:
            if text:
                parts.append(Text(text))
            text = ""
            parts.append(Image(image))
            image += 1
        text = f"{text} {sentence.strip()}".strip()
    return [*parts, Text(text)] if text else parts


def _similarity(info: Any) -> float:
    value = info.get("matched_sim") if isinstance(info, dict) else None
    return float(value) if isinstance(value, int | float) else 1.0
