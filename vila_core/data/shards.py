"""Write samples as ordinary WebDataset tars, with the index and the manifest beside them.

A sample is `<key>.json`, `<key>.000.png`, `<key>.001.jpg` …, next to each other, so that one read
of the index's byte range brings all of it. Equal samples give equal bytes.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from vila_core.data.encode import Counts
from vila_core.data.index import FILE_NAME, IndexBuilder
from vila_core.data.sample import Sample, part_to_json
from vila_core.images import extension
from vila_core.jsonio import dumps

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_BLOCK = 512
_END_OF_ARCHIVE = bytes(2 * _BLOCK)


@dataclass(frozen=True)
class ShardLimits:
    """When a shard is full."""

    samples: int = 10_000
    num_bytes: int = 256 * 2**20


class ShardWriter:
    """Writes one corpus into `folder`. Use it as a context manager, then call `finish`.

    `finish` writes the index and, last, the manifest: a folder without one is not a corpus.
    """

    def __init__(
        self, folder: Path, name: str, *, template: str, limits: ShardLimits | None = None
    ) -> None:
        self._folder, self._name, self._template = folder, name, template
        self._limits = limits or ShardLimits()
        self._index = IndexBuilder()
        self._shards: list[dict[str, object]] = []
        self._file: BinaryIO | None = None
        folder.mkdir(parents=True)

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

    def add(self, sample: Sample, counts: Counts) -> None:
        """Append a sample. Samples come in the order in which they are to be numbered."""
        if self._file is None:
            self._open()
        corpus, _, rest = sample.key.partition("/")
        key_shard, _, number = rest.rpartition("/")
        if corpus != self._name:
            raise ValueError(f"{sample.key} is not a sample of '{self._name}'")
        header = _header(sample)
        start, json_size = self._member(f"{sample.key}.json", header)
        images = []
        for place, image in enumerate(sample.images):
            offset, size = self._member(f"{sample.key}.{place:03d}.{extension(image)}", image)
            images.append((offset - start, size))
        last_offset, last_size = images[-1] if images else (0, json_size)
        self._index.add(
            key_shard=key_shard,
            key_index=int(number),
            shard=len(self._shards),
            offset=start,
            size=last_offset + last_size,
            json_size=json_size,
            json_crc32=zlib.crc32(header),
            images=iter(images),
            digest=sample.digest,
            num_text_tokens=counts.text_tokens,
            num_supervised=counts.supervised,
            num_images=counts.images,
        )
        self._in_shard += 1
        if self._in_shard >= self._limits.samples or self._size >= self._limits.num_bytes:
            self._close()

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
        self._write(_END_OF_ARCHIVE)
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

    def _member(self, name: str, data: bytes) -> tuple[int, int]:
        """Write a file into the tar; return offset and size of its content."""
        info = tarfile.TarInfo(name)  # owner, group and time are zero, mode 0644
        info.size = len(data)
        self._write(info.tobuf(tarfile.PAX_FORMAT))
        offset = self._size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset, len(data)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._sha256.update(data)
        self._size += len(data)


def _header(sample: Sample) -> bytes:
    value = {
        "key": sample.key,
        "kind": sample.kind,
        "parts": [part_to_json(part) for part in sample.parts],
        "digest": sample.digest,
        "meta": dict(sample.meta),
    }
    return dumps(value).encode()
