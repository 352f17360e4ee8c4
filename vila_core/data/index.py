"""The index beside the shards: where each sample lies, and what it costs, as plain arrays."""

from __future__ import annotations

import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vila_core.data.arrays import write_arrays
from vila_core.errors import Damaged

FILE_NAME = "index.npz"
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise for a damaged file of arrays."""


@dataclass(frozen=True)
class Index:
    """One row per sample (N) and per image (M), in the order of the shards.

    `offset` and `size` are the bytes of a sample in its shard, from its JSON to its last image;
    `image_offset` counts from `offset`. `image_start[n] : image_start[n + 1]` are the images of
    sample n. Token counts are those of `data/encode.py` with the corpus's template.
    """

    shard: np.ndarray  # (N,) int32, number of the tar
    key_shard: np.ndarray  # (N,) int32, row in key_shards
    key_index: np.ndarray  # (N,) int64
    key_shards: np.ndarray  # text, the middle part of sample keys
    offset: np.ndarray  # (N,) int64
    size: np.ndarray  # (N,) int64
    json_size: np.ndarray  # (N,) int64
    json_crc32: np.ndarray  # (N,) int64, of the JSON: its kind and meta are not in the digest
    image_start: np.ndarray  # (N + 1,) int64
    image_offset: np.ndarray  # (M,) int64
    image_size: np.ndarray  # (M,) int64
    num_text_tokens: np.ndarray  # (N,) int32, image places left out
    num_supervised: np.ndarray  # (N,) int32
    num_images: np.ndarray  # (N,) int32
    digest: np.ndarray  # (N, 32) uint8, sha256 of the content

    def keys(self, corpus: str) -> list[str]:
        """Return the sample keys of all rows."""
        shards = self.key_shards.tolist()
        return [
            f"{corpus}/{shards[shard]}/{number:06d}"
            for shard, number in zip(self.key_shard.tolist(), self.key_index.tolist(), strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write the arrays. Equal indexes give equal bytes."""
        with path.open("wb") as file:
            self.write(file)

    def write(self, file: BinaryIO) -> None:
        """Write the arrays to an open file."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        write_arrays(file, **arrays)

    @classmethod
    def load(cls, source: Path | BinaryIO, name: str | None = None) -> Index:
        """Read what `save` wrote, called `name` in errors. Raises Damaged for anything else."""
        if isinstance(source, Path):
            try:
                with source.open("rb") as file:  # np.load leaves a damaged file open
                    return cls.load(file, name or str(source))
            except OSError as error:
                raise Damaged(f"{name or source}: is not a readable index: {error}") from None
        try:
            with np.load(source, allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except UNREADABLE as error:
            raise Damaged(f"{name or source}: is not a readable index: {error}") from None


class IndexBuilder:
    """Collects rows; plain integers in machine arrays, so that millions of samples fit."""

    def __init__(self) -> None:
        self._shards: dict[str, int] = {}
        self._rows = {name: array("q") for name in _ROWS}
        self._image_offset, self._image_size = array("q"), array("q")
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._rows["shard"])

    def add(
        self,
        *,
        key_shard: str,
        images: Iterator[tuple[int, int]],
        digest: str,
        **row: int,
    ) -> None:
        """Add a sample; `images` are offset and size of each, `row` the other columns by name."""
        row["key_shard"] = self._shards.setdefault(key_shard, len(self._shards))
        for offset, size in images:
            self._image_offset.append(offset)
            self._image_size.append(size)
        for name, column in self._rows.items():
            column.append(row[name])
        self._digests += bytes.fromhex(digest)

    def extend(self, rows: Index) -> None:
        """Append the rows of an index."""
        shards = [self._shards.setdefault(name, len(self._shards)) for name in rows.key_shards]
        for name, column in self._rows.items():
            values = getattr(rows, name)
            if name == "key_shard":
                values = np.array(shards, dtype=np.int64)[values]
            column.frombytes(values.astype(np.int64).tobytes())
        self._image_offset.frombytes(rows.image_offset.tobytes())
        self._image_size.frombytes(rows.image_size.tobytes())
        self._digests += rows.digest.tobytes()

    def since(self, start: int) -> Index:
        """Return the rows from `start` on, as an index of its own."""
        images = sum(self._rows["num_images"][:start])
        return self._built(start, images)

    def total(self, column: str) -> int:
        """Return the sum of a column."""
        return sum(self._rows[column])

    def build(self) -> Index:
        """Return the finished index."""
        return self._built(0, 0)

    def _built(self, start: int, images: int) -> Index:
        rows = {
            name: np.array(column[start:], dtype=_ROWS[name]) for name, column in self._rows.items()
        }
        starts = np.concatenate([[0], np.cumsum(rows["num_images"], dtype=np.int64)])
        return Index(
            **rows,
            key_shards=np.array(list(self._shards), dtype=np.str_),
            image_start=starts,
            image_offset=np.array(self._image_offset[images:], dtype=np.int64),
            image_size=np.array(self._image_size[images:], dtype=np.int64),
            digest=np.frombuffer(bytes(self._digests[start * 32 :]), dtype=np.uint8).reshape(
                -1, 32
            ),
        )


_ROWS = {
    "shard": np.int32,
    "key_shard": np.int32,
    "key_index": np.int64,
    "offset": np.int64,
    "size": np.int64,
    "json_size": np.int64,
    "json_crc32": np.int64,
    "num_text_tokens": np.int32,
    "num_supervised": np.int32,
    "num_images": np.int32,
}
