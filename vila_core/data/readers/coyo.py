"""COYO: image and caption pairs as parquet, images in a folder as `<id>.<extension>`.

Which rows are taken can be decided by their scores before any image is looked at (`select`).

Also reads pairs whose table brings the image itself, in a column `image` (bytes, or the hub's
struct of bytes and path), or its place in the folder, in a column `image_path`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from vila_core.data.readers.common import (
    MISSING_IMAGE,
    ImageFolder,
    Options,
    checked,
    get_text,
    image_folder,
)
from vila_core.data.readers.records import BROKEN_RECORD, Broken
from vila_core.data.sample import Image, Sample, Text, make_sample

if TYPE_CHECKING:
    import numpy as np

    from vila_core.data.readers.files import RecordFile

_SCORES = (
    "width",
    "height",
    "num_faces",
    "clip_similarity_vitb32",
    "clip_similarity_vitl14",
    "nsfw_score_opennsfw2",
    "nsfw_score_gantman",
    "watermark_score",
    "aesthetic_score_laion_v2",
)
"""Columns that go on into the sample's meta, for rules (`min_score`, `max_score`) and for later."""
_EXTENSIONS = ("jpg", "png", "webp", "jpeg", "gif")


class CoyoOptions(Options):
    """How pairs are read."""

    text: str = Field(default="text", description="column of the caption")
    id: str = Field(default="id", description="column that names the image file")
    score: tuple[str, ...] = Field(
        default=("clip_similarity_vitb32", "clip_similarity_vitl14"),
        min_length=1,
        description="columns whose sum ranks the rows",
    )
    top: int | None = Field(
        default=None, ge=1, description="take the best so many rows of the whole corpus"
    )
    top_share: float | None = Field(
        default=None, gt=0, le=1, description="take the best of each file, this share of its rows"
    )
    score_above: float | None = Field(
        default=None, description="take only rows whose score is greater"
    )

    @model_validator(mode="after")
    def _fits(self) -> CoyoOptions:
        if self.top is not None and self.top_share is not None:
            raise ValueError("top (of the corpus) and top_share (of each file) exclude each other")
        if len(set(self.score)) < len(self.score):
            raise ValueError("a column of score is named twice")
        return self


def select(files: Sequence[RecordFile], options: Options) -> dict[str, np.ndarray] | None:
    """Return the rows to take by their scores, by shard; None for all. Raises UserError."""
    from vila_core.data.readers.ranking import best_rows, best_share

    assert isinstance(options, CoyoOptions)
    columns, above = options.score, options.score_above
    if options.top_share is not None:
        return best_share(files, columns, options.top_share, above=above)
    if options.top is None and above is None:
        return None
    return best_rows(files, columns, options.top, above=above)


def columns(options: Options) -> Sequence[frozenset[str]]:
    """Return what a table needs: the caption, and the image or what names it."""
    assert isinstance(options, CoyoOptions)
    places = (options.id, "image", "image_path")
    return [frozenset({options.text, place}) for place in places]


class Converter:
    """Makes captioned images. `images` defaults to the folder `images` beside the file."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, CoyoOptions)
        self._folder, self._options = ImageFolder(image_folder(path, images)), options

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the pair of a record."""
        return _sample(key, record, self._folder, self._options)


def _sample(key: str, record: Any, folder: ImageFolder, options: CoyoOptions) -> Sample:
    text = get_text(record, options.text)
    image = _image(record, folder, options)
    meta = {"id": record.get(options.id), "url": record.get("url")}
    for name in dict.fromkeys((*_SCORES, *options.score)):
        value = record.get(name)
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            meta[name] = value
    return make_sample(key, "caption", [Image(0), Text(text)], [image], meta)


def _image(record: Any, folder: ImageFolder, options: CoyoOptions) -> bytes:
    inside = record.get("image")
    if isinstance(inside, dict):
        inside = inside.get("bytes")
    if isinstance(inside, bytes):
        return checked(inside, "column 'image'")
    if isinstance(record.get("image_path"), str):
        return folder.read(record["image_path"])
    name = record.get(options.id)
    if not isinstance(name, int | str):
        raise Broken(BROKEN_RECORD, f"'{options.id}' is missing, it names the image")
    found = folder.find(str(name), _EXTENSIONS)
    if found is None:
        raise Broken(MISSING_IMAGE, f"{name}.{{{','.join(_EXTENSIONS)}}}")
    return folder.read(found)
