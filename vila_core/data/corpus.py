"""Read a corpus's shards at random through the index, with one `pread` per sample."""

from __future__ import annotations

import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vila_core.data.cache import RemoteFile, ShardCache
from vila_core.data.index import FILE_NAME, Index
from vila_core.data.location import MANIFEST, Location, locate
from vila_core.data.sample import Sample, digest, part_from_json
from vila_core.data.shards import FORMAT_VERSION
from vila_core.data.token_counts import CHAT_KEY, DIGEST_KEY, Counted, find
from vila_core.errors import Damaged, NotFound, UserError

_OPEN_SHARDS = 128


class Corpus:
    """A folder of shards. Cheap to open and to send to a worker; shards are opened when needed."""

    def __init__(
        self,
        where: Location,
        manifest: dict[str, Any],
        index: Index,
        shards: Sequence[Path | RemoteFile],
        counts: str = "",
    ) -> None:
        """Join the pieces; `counts` names the token counts that are not those of the index file."""
        self._where, self.uri, self._counts = where, where.uri, counts
        self.manifest, self.index = manifest, index
        self.name: str = manifest["name"]
        self.template: str = manifest["template"]
        self._files = _Files(shards)

    @classmethod
    def open(cls, location: str | Path | Location) -> Corpus:
        """Open what prepare wrote: a folder, or the same folder in a store (`s3://`, `file://`).

        From a store, index and shards come through the shard cache. Raises UserError if there is
        no corpus, Damaged if it is broken, StoreError if the store can't be read.
        """
        where = locate(location)
        path = f"{where.uri}/{MANIFEST}"
        try:
            manifest = json.loads(where.read(MANIFEST))
        except (FileNotFoundError, NotFound):
            raise UserError(
                f"{where.uri}: is not a prepared corpus: {MANIFEST} is missing.\n"
                "  fix: point to a folder under `corpora/` that the prepare stage wrote."
            ) from None
        except ValueError as error:
            raise Damaged(f"{path}: is not valid JSON: {error}") from None
        if manifest.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: version {manifest.get('version')!r}, this code reads {FORMAT_VERSION}; "
                "prepare the corpus again."
            )
        shards = [
            where.file(shard["path"], shard["sha256"], shard["size"])
            for shard in manifest["shards"]
        ]
        return cls(where, manifest, _load_index(where, manifest["index_sha256"]), shards)

    def __len__(self) -> int:
        return len(self.index.offset)

    @property
    def folder(self) -> Path:
        """The folder of a corpus that is read in place. Raises ValueError for one in a store."""
        if self.remote:
            raise ValueError(f"{self.uri} is not a folder of this machine")
        return Path(self.uri)

    @property
    def digest(self) -> str:
        """The sha256 of the index, which holds every sample's digest; then what other counts are
        called."""
        own = self.manifest["index_sha256"]
        return f"{own}+{self._counts}" if self._counts else own

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
        shard = int(self.index.shard[number])
        sample = self._intact(number)
        if sample is None and self._files.renew(shard):
            sample = self._intact(number)
        if sample is None:
            raise self._changed(number)
        return sample

    def read_text(self, number: int) -> Sample:
        """Read one sample with empty images: what counting tokens needs. Raises Damaged."""
        index = self.index
        shard, size = int(index.shard[number]), int(index.json_size[number])
        header = self._files.read(shard, int(index.offset[number]), size)
        if zlib.crc32(header) != int(index.json_crc32[number]):
            raise self._changed(number)
        value = json.loads(header)
        parts = tuple(part_from_json(part) for part in value["parts"])
        images = (b"",) * int(index.num_images[number])
        return Sample(value["key"], value["kind"], parts, images, value["digest"], value["meta"])

    def counted_by(self, counted: Counted) -> Corpus | None:
        """Return the corpus as another tokenizer or template counted it; None if none has.

        What is there is a file beside the index: see `token_counts`. Raises Damaged.
        """
        counts = find(self._where, counted, self.manifest["index_sha256"], self.index)
        if counts is None:
            return None
        manifest = {
            **self.manifest,
            "template": counted.template,
            DIGEST_KEY: counted.tokenizer,
            CHAT_KEY: counted.chat_template,
        }
        index = replace(self.index, **vars(counts))
        return Corpus(self._where, manifest, index, self._files.sources, counts=counted.name)

    @cached_property
    def remote(self) -> list[RemoteFile]:
        """The shards by number where they come from a store; empty where they are read in place."""
        return [source for source in self._files.sources if isinstance(source, RemoteFile)]

    def _changed(self, number: int) -> Damaged:
        return Damaged(
            f"{self.key(number)}: the bytes in {self._files.path(int(self.index.shard[number]))} "
            "are not the ones that were indexed.\n  fix: prepare the corpus again."
        )

    def _intact(self, number: int) -> Sample | None:
        """Return the sample, or None when the bytes of the shard are not what was indexed."""
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
            return None
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


def _load_index(where: Location, sha256: str) -> Index:
    source = where.file(FILE_NAME, sha256, None)
    if isinstance(source, Path):
        return Index.load(source)
    with open(ShardCache.from_environment().open(source), "rb") as file:
        return Index.load(file, source.uri)


class _Files:
    """Open shards, the least recently used closed first. Descriptors don't travel in pickles."""

    def __init__(self, sources: Sequence[Path | RemoteFile]) -> None:
        self.sources = tuple(sources)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._cache: ShardCache | None = None
        self._renewed: set[int] = set()

    def path(self, shard: int) -> str:
        source = self.sources[shard]
        return str(source) if isinstance(source, Path) else source.uri

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, or fewer at the end of the file."""
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            self._open[shard] = self._opened(self.sources[shard])
            if len(self._open) > _OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        return os.pread(self._open[shard], size, offset)

    def renew(self, shard: int) -> bool:
        """Have a remote shard fetched again, once: the cached copy may have gone bad."""
        source = self.sources[shard]
        if not isinstance(source, RemoteFile) or shard in self._renewed:
            return False
        self._renewed.add(shard)
        os.close(self._open.pop(shard))
        self._shard_cache().discard(source)
        return True

    def _opened(self, source: Path | RemoteFile) -> int:
        if isinstance(source, RemoteFile):
            self._close_evicted()
            return self._shard_cache().open(source)
        try:
            return os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Damaged(f"{source}: the shard is missing.") from None

    def _close_evicted(self) -> None:
        """Let go of shards that the cache has unlinked: held open, they still fill the disk."""
        for shard, descriptor in list(self._open.items()):
            if os.fstat(descriptor).st_nlink == 0:
                os.close(self._open.pop(shard))

    def _shard_cache(self) -> ShardCache:
        if self._cache is None:
            self._cache = ShardCache.from_environment()
        return self._cache

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def __getstate__(self) -> tuple[Path | RemoteFile, ...]:
        return self.sources

    def __setstate__(self, sources: tuple[Path | RemoteFile, ...]) -> None:
        self.__init__(sources)
