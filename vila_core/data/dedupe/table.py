"""Signatures by the million as plain arrays: `signatures.npz` beside a corpus's index."""

from __future__ import annotations

import contextlib
import json
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO

import numpy as np

from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.perceptual import METHOD
from vila_core.data.dedupe.signature import Signature
from vila_core.errors import Damaged
from vila_core.jsonio import dumps

FILE_NAME = "signatures.npz"
MANIFEST_KEY = "signatures_sha256"
"""Where a corpus's manifest holds the digest of that file."""
_VERSION = 1
_ROWS_AT_ONCE = 1 << 14


def scheme(config: DedupeConfig) -> str:
    """Return how signatures are made, as JSON: the config, and by what images are hashed."""
    method = METHOD if config.perceptual else "bytes"
    return dumps({"version": _VERSION, "images": method, "config": config.model_dump(mode="json")})


def config_of(text: str) -> DedupeConfig:
    """Return the config that a table was made with.

    Raises ValueError if its hashes can't be compared with those that this code makes.
    """
    try:
        value = json.loads(text)
        config = DedupeConfig.model_validate(value["config"])
        made = (value["version"], value["images"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("says nothing of its making that this version knows") from None
    wanted = json.loads(scheme(config))
    if made != (wanted["version"], wanted["images"]):
        raise ValueError(f"version {made[0]}, images by {made[1]}")
    return config


@dataclass(frozen=True)
class Signatures:
    """Signatures of N samples in the order of the index, with M images and G n-grams in all.

    `images[image_start[n] : image_start[n + 1]]` are those of sample n, and so are `phashes`, which
    are M or none; `grams` go by `gram_start`.
    """

    scheme: str
    content: np.ndarray  # (N,) uint64
    text: np.ndarray  # (N,) uint64
    image_start: np.ndarray  # (N + 1,) int64
    images: np.ndarray  # (M,) uint64
    phashes: np.ndarray  # (M,) or (0,) uint64
    gram_start: np.ndarray  # (N + 1,) int64
    grams: np.ndarray  # (G,) uint64

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, number: int) -> Signature:
        images = slice(self.image_start[number], self.image_start[number + 1])
        return Signature(
            int(self.content[number]),
            int(self.text[number]),
            self.images[images],
            self.phashes[images],
            self.grams[self.gram_start[number] : self.gram_start[number + 1]],
        )

    def __iter__(self) -> Iterator[Signature]:
        return map(self.__getitem__, range(len(self)))

    def part(self, start: int, stop: int) -> Signatures:
        """Return rows `start` to `stop` as a table of their own."""
        stop = min(stop, len(self))
        images = slice(int(self.image_start[start]), int(self.image_start[stop]))
        grams = slice(int(self.gram_start[start]), int(self.gram_start[stop]))
        return Signatures(
            self.scheme,
            self.content[start:stop],
            self.text[start:stop],
            self.image_start[start : stop + 1] - images.start,
            self.images[images],
            self.phashes[images],
            self.gram_start[start : stop + 1] - grams.start,
            self.grams[grams],
        )

    def save(self, path: Path) -> None:
        """Write the arrays. Equal tables give equal bytes."""
        join([self], path)

    @classmethod
    def load(cls, path: Path, *, grams: bool = True) -> Signatures:
        """Read what `save` or `join` wrote; n-grams, most of it, can be left out.

        Raises Damaged for anything else.
        """
        # numpy leaves a file open that turns out to be no zip, so that it is opened here.
        with _explained(str(path)), path.open("rb") as file:
            return _load(file, grams=grams)


class SignaturesBuilder:
    """Collects signatures in machine arrays."""

    def __init__(self, config: DedupeConfig) -> None:
        self._scheme = scheme(config)
        self.clear()

    def __len__(self) -> int:
        return len(self._content)

    def clear(self) -> None:
        """Start anew, for example with the next shard."""
        self._content, self._text = array("Q"), array("Q")
        self._image_start, self._gram_start = array("q", [0]), array("q", [0])
        self._images, self._phashes, self._grams = array("Q"), array("Q"), array("Q")

    def add(self, signature: Signature) -> None:
        """Append a signature."""
        self._content.append(signature.content)
        self._text.append(signature.text)
        self._images.frombytes(signature.images.tobytes())
        self._phashes.frombytes(signature.phashes.tobytes())
        self._grams.frombytes(signature.grams.tobytes())
        self._image_start.append(len(self._images))
        self._gram_start.append(len(self._grams))

    def build(self) -> Signatures:
        """Return the table."""
        return Signatures(
            self._scheme,
            **{
                name: np.array(getattr(self, f"_{name}"), dtype=kind)
                for name, kind in _ARRAYS.items()
            },
        )


def join(parts: Sequence[Signatures | Path], path: Path) -> None:
    """Write the tables one after the other as one file, holding one at a time.

    Parts are tables or their files, all of one scheme (else ValueError). The bytes depend on the
    rows alone, not on how they were cut.
    """
    schemes, totals = set(), dict.fromkeys(_ARRAYS, 0)
    for table in _tables(parts):
        schemes.add(table.scheme)
        for name in _ARRAYS:
            totals[name] += len(getattr(table, name))
    if len(schemes) != 1:
        raise ValueError(f"one scheme is needed, found {sorted(schemes)}")
    with zipfile.ZipFile(path, "w", allowZip64=True) as target:
        with target.open(zipfile.ZipInfo("scheme.npy"), "w") as file:
            np.lib.format.write_array(file, np.array(schemes.pop()), allow_pickle=False)
        for name, kind in _ARRAYS.items():
            starts = name in _STARTS
            length = totals[name] - (len(parts) - 1 if starts else 0)
            with target.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                _header(file, kind, length)
                written = 0
                for number, table in enumerate(_tables(parts)):
                    values: np.ndarray = getattr(table, name)
                    if starts:
                        values, written = values[number > 0 :] + written, written + int(values[-1])
                    file.write(values.astype(kind).tobytes())


def blocks(file: IO[bytes], where: str, rows: int = _ROWS_AT_ONCE) -> Iterator[Signatures]:
    """Yield the table in a file some rows at a time, n-grams included, in flat memory.

    Raises Damaged, naming `where`, for a file that can't be read.
    """
    with _explained(where):
        table = _load(file, grams=False)
        with zipfile.ZipFile(file) as source:
            with source.open("gram_start.npy") as member:
                starts = np.lib.format.read_array(member, allow_pickle=False)
            with source.open("grams.npy") as member:
                np.lib.format.read_magic(member)
                np.lib.format.read_array_header_1_0(member)
                for start in range(0, len(table), rows):
                    part = table.part(start, start + rows)
                    here = starts[start : start + rows + 1]
                    data = member.read(int(here[-1] - here[0]) * 8)
                    grams = np.frombuffer(data, dtype=np.uint64)
                    yield replace(part, grams=grams, gram_start=here - here[0])


def _load(file: IO[bytes], *, grams: bool) -> Signatures:
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        arrays = {name: found[name] for name in _ARRAYS if grams or name != "grams"}
        made = str(found["scheme"])
    if not grams:
        arrays["grams"] = np.zeros(0, dtype=np.uint64)
        arrays["gram_start"] = np.zeros_like(arrays["gram_start"])
    return Signatures(made, **arrays)


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Damaged(f"{where}: is not a readable table of signatures: {error}") from None


def _tables(parts: Iterable[Signatures | Path]) -> Iterator[Signatures]:
    return (part if isinstance(part, Signatures) else Signatures.load(part) for part in parts)


def _header(file: IO[bytes], kind: type, length: int) -> None:
    described = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(kind)),
        "fortran_order": False,
        "shape": (length,),
    }
    np.lib.format.write_array_header_1_0(file, described)


_STARTS = ("image_start", "gram_start")
_ARRAYS = {
    field.name: np.int64 if field.name in _STARTS else np.uint64
    for field in fields(Signatures)
    if field.name != "scheme"
}
