"""Shards that prepare wrote, as a corpus: to apply other rules, or to bring corpora together.

A sample keeps the shard and number of its key; under another corpus name the key that it had goes
to `meta["prepared_key"]`.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

from vila_core.data.readers.common import Options, checked
from vila_core.data.readers.records import Broken, Record
from vila_core.data.sample import Kind, Sample, make_sample, part_from_json
from vila_core.errors import Damaged, UserError

if TYPE_CHECKING:
    from vila_core.data.corpus import Corpus

_DAMAGED = "damaged shard"


class Row(NamedTuple):
    """Where a sample lies. Offsets of images count from `offset`."""

    path: str
    offset: int
    size: int
    json_size: int
    json_crc32: int
    images: tuple[tuple[int, int], ...]  # offset, size
    digest: str


@dataclass(frozen=True)
class Shard:
    """A tar of a prepared corpus, with its rows of the index."""

    folder: Path
    corpus: Corpus
    number: int
    shard: str

    def records(self) -> Iterator[Record]:
        """Yield a record per sample, in the shard's order."""
        import numpy as np

        index = self.corpus.index
        path = self.folder / self.corpus.manifest["shards"][self.number]["path"]
        if not path.is_file():
            raise UserError(f"{path}: the shard is missing; fetch it, or prepare the corpus again")
        rows = np.flatnonzero(index.shard == self.number).tolist()
        for number, row in enumerate(rows):
            images = slice(int(index.image_start[row]), int(index.image_start[row + 1]))
            value = Row(
                str(path),
                int(index.offset[row]),
                int(index.size[row]),
                int(index.json_size[row]),
                int(index.json_crc32[row]),
                tuple(
                    zip(
                        index.image_offset[images].tolist(),
                        index.image_size[images].tolist(),
                        strict=True,
                    )
                ),
                index.digest[row].tobytes().hex(),
            )
            yield Record(number, self.corpus.key(row), value)


def files(path: Path) -> Sequence[Shard]:
    """Return the shards of the prepared corpus in folder `path`. Raises UserError if it is none."""
    from vila_core.data.corpus import Corpus

    try:
        corpus = Corpus.open(path)
        names = [str(shard["path"]) for shard in corpus.manifest["shards"]]
    except Damaged as error:
        raise UserError(f"{error}\n  fix: prepare the corpus again, or fetch it again") from None
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise UserError(
            f"{path}: its manifest is not one that prepare wrote: {type(error).__name__} {error}\n"
            "  fix: prepare the corpus again, or fetch it again"
        ) from None
    return [Shard(path, corpus, number, f"{number:05d}") for number in range(len(names))]


class Converter:
    """Gives samples as they are. Their images are in the shards."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        pass

    def __call__(self, key: str, row: Any) -> Sample:
        """Return the sample of a row. Raises Broken unless its bytes are the ones indexed."""
        assert isinstance(row, Row)
        data = _read(row)
        if zlib.crc32(data[: row.json_size]) != row.json_crc32:
            raise _changed(row)
        images = [data[offset : offset + size] for offset, size in row.images]
        try:
            header = json.loads(data[: row.json_size])
            corpus, (old_corpus, _, rest) = key.partition("/")[0], header["key"].partition("/")
            meta = dict(header["meta"])
            if old_corpus != corpus:
                meta["prepared_key"] = header["key"]
            if header["kind"] not in get_args(Kind):
                raise Broken(_DAMAGED, f"kind {header['kind']!r}")
            parts = [part_from_json(part) for part in header["parts"]]
            kind = cast(Kind, header["kind"])
            sample = make_sample(f"{corpus}/{rest}", kind, parts, images, meta)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Broken(_DAMAGED, f"{Path(row.path).name}: {error}") from None
        if sample.digest != row.digest:
            raise _changed(row)
        for number, image in enumerate(sample.images, 1):
            checked(image, f"image {number}")
        return sample


def _changed(row: Row) -> Broken:
    return Broken(_DAMAGED, f"{Path(row.path).name}: not the bytes that were indexed")


def _read(row: Row) -> bytes:
    try:
        descriptor = os.open(row.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, row.size, row.offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{row.path}: can't be read: {error.strerror or error}") from None
