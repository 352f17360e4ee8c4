"""Write samples as ordinary WebDataset tars, with the index and the manifest beside them.

A sample is `<key>.json`, `<key>.000.png`, `<key>.001.jpg` …, next to each other, so that one read
of the index's byte range brings all of it. Equal samples give equal bytes.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from vila_core.data.encode import Counts
from vila_core.data.index import FILE_NAME, Index, IndexBuilder
from vila_core.data.sample import Sample, part_to_json
from vila_core.images import extension
from vila_core.jsonio import dumps

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_BLOCK = 512
END_OF_ARCHIVE = bytes(2 * _BLOCK)


@dataclass(frozen=True)
class ShardLimits:
    """When a shard is full."""

    samples: int = 10_000
    num_bytes: int = 256 * 2**20


@dataclass(frozen=True)
class Packed:
    """A sample as members of a tar. `row` has its columns of the index, but for the shard."""

    key: str
    digest: str
    data: bytes  # headers, contents and padding of all members
    start: int  # of the JSON in `data`
    images: tuple[tuple[int, int], ...]  # offset from `start`, size
    row: dict[str, int]


def pack(sample: Sample, counts: Counts) -> Packed:
    """Return a sample as it will stand in a shard. Equal samples give equal bytes."""
    header = _header(sample)
    pieces = _member(f"{sample.key}.json", header)
    start, place = len(pieces[0]), sum(map(len, pieces))
    images: list[tuple[int, int]] = []
    for number, image in enumerate(sample.images):
        member = _member(f"{sample.key}.{number:03d}.{extension(image)}", image)
        images.append((place + len(member[0]) - start, len(image)))
        place += sum(map(len, member))
        pieces += member
    last_offset, last_size = images[-1] if images else (0, len(header))
    row = {
        "size": last_offset + last_size,
        "json_size": len(header),
        "json_crc32": zlib.crc32(header),
        "num_text_tokens": counts.text_tokens,
        "num_supervised": counts.supervised,
        "num_images": counts.images,
    }
    return Packed(sample.key, sample.digest, b"".join(pieces), start, tuple(images), row)


@dataclass(frozen=True)
class ShardPart:
    """Closed shards, mostly one: their rows of the manifest, and their rows of the index."""

    shards: list[dict[str, object]]
    rows: Index


class ShardWriter:
    """Writes one corpus into `folder`. Use it as a context manager, then call `finish`.

    `finish` writes the index and, last, the manifest: a folder without one is not a corpus.
    With `finished`, the parts of an earlier writer of this folder, it goes on after those.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        template: str,
        limits: ShardLimits | None = None,
        finished: Sequence[ShardPart] = (),
    ) -> None:
        self._folder, self._name, self._template = folder, name, template
        self._limits = limits or ShardLimits()
        self._index = IndexBuilder()
        self._shards: list[dict[str, object]] = []
        self._file: BinaryIO | None = None
        folder.mkdir(parents=True, exist_ok=bool(finished))
        for part in finished:
            self._shards += part.shards
            self._index.extend(part.rows)
        self._noted = (len(self._shards), len(self._index))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, sample: Sample, counts: Counts) -> bool:
        """Append a sample; see `append`."""
        return self.append(pack(sample, counts))

    def append(self, packed: Packed) -> bool:
        """Append a sample; return whether that made the shard full and closed it.

        Samples come in the order in which they are to be numbered.
        """
        if self._file is None:
            self._open()
        corpus, _, rest = packed.key.partition("/")
        key_shard, _, number = rest.rpartition("/")
        if corpus != self._name:
            raise ValueError(f"{packed.key} is not a sample of '{self._name}'")
        self._index.add(
            key_shard=key_shard,
            key_index=int(number),
            shard=len(self._shards),
            offset=self._size + packed.start,
            images=iter(packed.images),
            digest=packed.digest,
            **packed.row,
        )
        self._write(packed.data)
        self._in_shard += 1
        if self._in_shard < self._limits.samples and self._size < self._limits.num_bytes:
            return False
        self._close()
        return True

    def part(self) -> ShardPart:
        """Return what was closed since the last part: enough to go on after it."""
        shards, rows = self._noted
        self._noted = (len(self._shards), len(self._index))
        return ShardPart(self._shards[shards:], self._index.since(rows))

    def finish(self, **facts: object) -> dict[str, object]:
        """Write index and manifest; return the manifest. `facts` are added to it."""
        self._close()
        path = self._folder / FILE_NAME
        self._index.build().save(path)
        manifest: dict[str, object] = {
            "version": FORMAT_VERSION,
            "name": self._name,
            "template": self._template,
            "samples": len(self._index),
            "text_tokens": self._index.total("num_text_tokens"),
            "supervised": self._index.total("num_supervised"),
            "images": self._index.total("num_images"),
            "shards": self._shards,
            "index_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **facts,
        }
        (self._folder / MANIFEST).write_text(dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return manifest

    def _open(self) -> None:
        self._file = (self._folder / f"{self._name}-{len(self._shards):05d}.tar").open("wb")
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._in_shard = 0

    def _close(self) -> None:
        if self._file is None:
            return
        self._write(END_OF_ARCHIVE)
        self._file.flush()
        os.fsync(self._file.fileno())  # before any journal says that it is there
        self._file.close()
        self._shards.append(
            {
                "path": Path(self._file.name).name,
                "size": self._size,
                "sha256": self._sha256.hexdigest(),
                "samples": self._in_shard,
            }
        )
        self._file = None

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)


def _member(name: str, data: bytes) -> list[bytes]:
    """Return the tar header of a file, and its content with padding."""
    info = tarfile.TarInfo(name)  # owner, group and time are zero, mode 0644
    info.size = len(data)
    return [info.tobuf(tarfile.PAX_FORMAT), data, bytes(-len(data) % _BLOCK)]


def _header(sample: Sample) -> bytes:
    value = {
        "key": sample.key,
        "kind": sample.kind,
        "parts": [part_to_json(part) for part in sample.parts],
        "digest": sample.digest,
        "meta": dict(sample.meta),
    }
    return dumps(value).encode()
