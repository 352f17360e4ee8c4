"""COYO: image and caption pairs as parquet, images in a folder as `<id>.<extension>`.

Also reads pairs whose table brings the image itself, in a column `image` (bytes, or the hub's
struct of bytes and path), or its place in the folder, in a column `image_path`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vila_core.data.readers.common import (
    BROKEN_RECORD,
    MISSING_IMAGE,
    ImageFolder,
    Options,
    checked,
    get_text,
    image_folder,
)
from vila_core.data.readers.files import Broken
from vila_core.data.sample import Image, Sample, Text, make_sample

_EXTENSIONS = ("jpg", "png", "webp", "jpeg", "gif")


class CoyoOptions(Options):
    """How pairs are read."""

    text: str = Field(default="text", description="column of the caption")
    id: str = Field(default="id", description="column that names the image file")


class Converter:
    """Makes captioned images. `images` defaults to the folder `images` beside the file."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, CoyoOptions)
        self._place, self._options = image_folder(path, images), options
        self._folder = ImageFolder(self._place)

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the pair of a record."""
        return _sample(key, record, self._folder, self._place, self._options)


def _sample(
    key: str, record: Any, folder: ImageFolder, place: Path, options: CoyoOptions
) -> Sample:
    text = get_text(record, options.text)
    image = _image(record, folder, place, options)
    meta = {"id": record.get(options.id), "url": record.get("url")}
    return make_sample(key, "caption", [Image(0), Text(text)], [image], meta)


def _image(record: Any, folder: ImageFolder, place: Path, options: CoyoOptions) -> bytes:
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
    for extension in _EXTENSIONS:
        if (place / f"{name}.{extension}").is_file():
            return folder.read(f"{name}.{extension}")
    raise Broken(MISSING_IMAGE, f"{name}.{{{','.join(_EXTENSIONS)}}}")
