"""What img2dataset leaves: tars, folders or tables, each with a `<shard>_stats.json` when done.

A shard is `00000.tar` (`<key>.jpg`, `.txt`, `.json`), a folder `00000` of the same files, or
`00000.parquet` with the image in a column. Beside tars and folders `00000.parquet` lists all
addresses, also those of which nothing could be fetched: they are no records here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vila_core.data.readers import groups, pairs, webdataset
from vila_core.data.readers.common import MISSING_IMAGE, Options, checked, get_text
from vila_core.data.readers.files import corpus_files
from vila_core.data.readers.members import Group
from vila_core.data.readers.records import Broken, RecordFile
from vila_core.data.sample import Image, Sample, Text, make_sample
from vila_core.errors import UserError

STATS = "_stats.json"
_IMAGE_COLUMNS = ("jpg", "png", "webp")
_NOT_META = (
    *_IMAGE_COLUMNS,
    "txt",
    "key",
    "status",
    "error_message",
    "exif",
    "source",
    "licence",
    "license",
)


def files(path: Path) -> Sequence[RecordFile]:
    """Return the shards, in whichever layout. Raises UserError when one isn't finished."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name the output folder of img2dataset")
    # The nearest first: the folders of the other layout may hold millions of files.
    if any(path.glob("*.tar")):
        found = webdataset.files(path)
    elif any(any(path.glob(f"*/*.{suffix}")) for suffix in _IMAGE_COLUMNS):
        found = [folder for folder in pairs.files(path) if folder.name]
    elif any(path.rglob("*.tar")):
        found = webdataset.files(path)
    elif any(path.rglob("*.parquet")):
        found = corpus_files(path, (".parquet",))
    else:
        raise UserError(f"{path}: holds no tar, folder of images or table of img2dataset")
    _refuse_unfinished([one.path for one in found])
    return found


def columns(options: Options) -> Sequence[frozenset[str]]:
    """Return what a table needs: an image and a text."""
    assert isinstance(options, groups.GroupOptions)
    texts = ("txt", *options.fields)
    return [frozenset({image, text}) for image in _IMAGE_COLUMNS for text in texts]


class Converter:
    """Makes captioned images."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, groups.GroupOptions)
        self._of_files = groups.Converter(path, images, options)
        self._fields = options.fields

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the pair of a record: a group of files, or a row of a table."""
        if isinstance(record, Group):
            return self._of_files(key, record)
        name = next((name for name in _IMAGE_COLUMNS if record.get(name) is not None), None)
        if name is None:
            raise Broken(MISSING_IMAGE, f"{record.get('error_message') or record.get('status')}")
        if not isinstance(record[name], bytes):
            raise Broken(MISSING_IMAGE, f"column '{name}' holds {type(record[name]).__name__}")
        text = get_text(record, next((one for one in self._fields if one in record), "txt"))
        image = checked(record[name], f"column '{name}'")
        meta = {
            field: value
            for field, value in record.items()
            if field not in (*_NOT_META, *self._fields)
            and (value is None or isinstance(value, str | int | float))
        }
        meta["id"] = record.get("key")
        return make_sample(key, "caption", [Image(0), Text(text)], [image], meta)


def _refuse_unfinished(shards: Sequence[Path]) -> None:
    """Raise UserError for shards without the file that img2dataset writes last."""
    missing = [one for one in shards if not one.with_name(f"{one.stem}{STATS}").is_file()]
    if len(missing) == len(shards):
        return  # somebody kept the shards alone
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{missing[0]}{more}: img2dataset has not finished it ({STATS} is missing).\n"
            "  fix: run the download again, it goes on where it stopped; or delete the shard"
        )
