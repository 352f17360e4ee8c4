"""Read a corpus's shards at random through the index, with one `pread` per sample."""

from __future__ import annotations

import json
import os
import zlib
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vila_core.data.index import FILE_NAME, Index
from vila_core.data.sample import Sample, digest, part_from_json
from vila_core.data.shards import FORMAT_VERSION, MANIFEST
from vila_core.errors import Damaged, UserError

_OPEN_SHARDS = 128


class Corpus:
    """A folder of shards. Cheap to open and to send to a worker; shards are opened when needed."""

    def __init__(self, folder: Path, manifest: dict[str, Any], index: Index) -> None:
        self.folder, self.manifest, self.index = folder, manifest, index
        self.name: str = manifest["name"]
        self.template: str = manifest["template"]
        self._files = _Files([folder / shard["path"] for shard in manifest["shards"]])

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Open a folder that prepare wrote. Raises UserError if it is none, Damaged if broken."""
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"{folder}: is not a prepared corpus: {MANIFEST} is missing.\n"
                "  fix: point to a folder under `corpora/` that the prepare stage wrote."
            ) from None
        except ValueError as error:
            raise Damaged(f"{path}: is not valid JSON: {error}") from None
        if manifest.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: version {manifest.get('version')!r}, this code reads {FORMAT_VERSION}; "
                "prepare the corpus again."
            )
        return cls(folder, manifest, Index.load(folder / FILE_NAME))

    def __len__(self) -> int:
        return len(self.index.offset)

    @property
    def digest(self) -> str:
        """The sha256 of the index, which holds the digest of every sample."""
        return self.manifest["index_sha256"]

    def key(self, number: int) -> str:
        """Return the sample key of sample `number`."""
        shard = self._key_shards[int(self.index.key_shard[number])]
        return f"{self.name}/{shard}/{int(self.index.key_index[number]):06d}"

    def find(self, key: str) -> int:
        """Return the number of the sample with this key. Raises KeyError if there is none."""
        corpus, _, rest = key.partition("/")
        shard, _, number = rest.rpartition("/")
        if corpus == self.name and shard in self._key_shards and number.isdecimal():
            same = self.index.key_shard == self._key_shards.index(shard)
            hits = np.flatnonzero(same & (self.index.key_index == int(number)))
            if len(hits):
                return int(hits[0])
        raise KeyError(key)

    def lengths(self, tokens_per_image: int) -> np.ndarray:
        """Return each sample's length in a pack, in tokens (N,) int64, images included."""
        images = self.index.num_images.astype(np.int64)
        return self.index.num_text_tokens + images * tokens_per_image

    def read_bytes(self, number: int) -> bytes:
        """Return the stretch of the shard that holds one sample, unchecked: header to last image.

        `index.image_offset` and `image_size` say where in it the images are.
        """
        index = self.index
        return self._files.read(
            int(index.shard[number]), int(index.offset[number]), int(index.size[number])
        )

    def read(self, number: int) -> Sample:
        """Read one sample. Raises Damaged when its content is not what was indexed."""
        index = self.index
        data = self.read_bytes(number)
        first, stop = int(index.image_start[number]), int(index.image_start[number + 1])
        images = tuple(
            data[offset : offset + size]
            for offset, size in zip(
                index.image_offset[first:stop].tolist(),
                index.image_size[first:stop].tolist(),
                strict=True,
            )
        )
        header = data[: int(index.json_size[number])]
        intact = zlib.crc32(header) == int(index.json_crc32[number])
        sample = _parse(header, images) if intact else None
        if sample is None or sample.digest != index.digest[number].tobytes().hex():
            path = self._files.path(int(index.shard[number]))
            raise Damaged(
                f"{self.key(number)}: the bytes in {path} are not the ones that were indexed.\n"
                "  fix: prepare the corpus again."
            )
        return sample

    @cached_property
    def _key_shards(self) -> list[str]:
        return self.index.key_shards.tolist()


def _parse(data: bytes, images: tuple[bytes, ...]) -> Sample | None:
    """Return the sample with the digest of what was read, or None if it isn't a sample."""
    try:
        header = json.loads(data)
        parts = tuple(part_from_json(part) for part in header["parts"])
        found = digest(parts, images)
        return Sample(header["key"], header["kind"], parts, images, found, header["meta"])
    except (ValueError, KeyError, TypeError):
        return None


class _Files:
    """Open shards, the least recently used closed first. Descriptors don't travel in pickles."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, int] = OrderedDict()

    def path(self, shard: int) -> Path:
        return self._paths[shard]

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, or fewer at the end of the file."""
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            try:
                self._open[shard] = os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise Damaged(f"{self._paths[shard]}: the shard is missing.") from None
            if len(self._open) > _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        return os.pread(self._open[shard], size, offset)

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def __getstate__(self) -> list[Path]:
        return self._paths

    def __setstate__(self, paths: list[Path]) -> None:
        self.__init__(paths)
