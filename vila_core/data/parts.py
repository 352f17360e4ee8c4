"""Part of a corpus, made on one machine, on its way to the merge that admits its samples.

Samples meet in the merge: duplicates, evaluation sets, limits over samples. What can be done
without the others is done here and written down, in pieces: a tar of samples (`.tar`), what became
of the records of each chunk (`.jsonl`), the samples' signatures (`.npz`), and, last, `.json` with
the digests of these. A killed part goes on after its last piece.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vila_core.data.dedupe import DedupeConfig, Signatures, SignaturesBuilder
from vila_core.data.encode import Counts
from vila_core.data.repeats import Prints
from vila_core.data.sample import SetAside
from vila_core.data.shards import END_OF_ARCHIVE, Packed, ShardLimits
from vila_core.data.supply import At, Making
from vila_core.data.work import Done, Made
from vila_core.errors import Damaged
from vila_core.jsonio import dumps


@dataclass(frozen=True)
class Totals:
    """What a part of a corpus holds."""

    pieces: int = 0
    chunks: int = 0
    records: int = 0
    samples: int = 0
    set_aside: int = 0


def write_part(
    making: Making,
    folder: Path,
    *,
    limits: ShardLimits,
    dedupe: DedupeConfig | None,
    told: Callable[[int, int], None] = lambda records, of: None,
) -> Totals:
    """Do a share of a corpus's chunks and write pieces to `folder`; go on after those there.

    A piece ends with the chunk that fills it by `limits`. Raises UserError for a corpus or a file
    of it that can't be read at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    totals = Totals()
    while (path := folder / f"{_name(totals.pieces)}.json").exists():
        totals = Totals(**json.loads(path.read_bytes())["totals"])
    chunks = making.placed(totals.chunks)
    for first in chunks:
        with _Piece(folder, totals, limits, dedupe) as piece:
            for at, done in itertools.chain([first], chunks):
                piece.add(at, done)
                told(piece.totals.records, 0)
                if piece.full:
                    break
            totals = piece.finish()
    return totals


class _Piece:
    def __init__(
        self, folder: Path, before: Totals, limits: ShardLimits, dedupe: DedupeConfig | None
    ) -> None:
        self._stem = folder / _name(before.pieces)
        self._before, self._limits = before, limits
        self._signatures = SignaturesBuilder(dedupe) if dedupe else None
        self._tar, self._rows = (_Digested(self._path(suffix)) for suffix in ("tar", "jsonl"))
        self._counts = dict.fromkeys(("chunks", "records", "samples", "set_aside"), 0)

    def __enter__(self) -> _Piece:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._rows.close()

    @property
    def full(self) -> bool:
        samples, size = self._limits.samples, self._limits.num_bytes
        return self._counts["samples"] >= samples or self._tar.size >= size

    @property
    def totals(self) -> Totals:
        sums = {name: getattr(self._before, name) + count for name, count in self._counts.items()}
        return Totals(self._before.pieces + 1, **sums)

    def add(self, at: At, done: Done) -> None:
        records = [[self._row(row) for row in rows] for rows in done.records]
        self._counts["chunks"] += 1
        self._counts["records"] += len(records)
        self._rows.write(f"{dumps({'at': at, 'records': records})}\n".encode())

    def _row(self, row: Made | SetAside) -> dict[str, Any]:
        if isinstance(row, SetAside):
            self._counts["set_aside"] += 1
            return {"aside": vars(row)}
        self._counts["samples"] += 1
        self._tar.write(row.packed.data)
        if self._signatures is not None and row.signature is not None:
            self._signatures.add(row.signature)
        return {
            "key": row.packed.key,
            "kind": row.kind,
            "digest": row.packed.digest,
            "bytes": len(row.packed.data),
            "start": row.packed.start,
            "images": row.packed.images,
            "row": row.packed.row,
            "prints": None if row.prints is None else [row.prints.images, row.prints.text],
            "left_out": dict(row.left_out),
        }

    def finish(self) -> Totals:
        self._tar.write(END_OF_ARCHIVE)
        digests = {"tar": self._tar.finish(), "jsonl": self._rows.finish()}
        if self._signatures is not None:
            path = self._path("npz")
            self._signatures.build().save(path)
            with path.open("rb+") as file:
                digests["npz"] = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
        totals = self.totals
        aside = self._path("new")
        aside.write_text(dumps({"totals": vars(totals), "sha256": digests}))
        aside.rename(self._path("json"))
        return totals

    def _path(self, suffix: str) -> Path:
        return self._stem.with_suffix(f".{suffix}")


class _Digested:
    """A file that is written once, with its size and sha256."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data)

    def finish(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._file.close()


class Stored:
    """All parts of a corpus, as `write_part` left them in `folders`, put in order again."""

    def __init__(
        self, folders: Sequence[Path], totals: Sequence[Totals], *, facts: Mapping[str, object],
        in_files: int | None,
    ) -> None:  # fmt: skip
        self._folders, self._totals = folders, totals
        self._facts, self._in_files = facts, in_files

    @property
    def facts(self) -> Mapping[str, object]:
        """What the manifest says of how the samples were made."""
        return self._facts

    def expected(self) -> int:
        """Return how many records will come."""
        return sum(totals.records for totals in self._totals)

    def in_files(self) -> int | None:
        """Return how many records the files hold, where some were left out unread; else None."""
        return self._in_files

    def done(self, start: int) -> Iterator[Done]:
        """Yield what became of each chunk, from chunk `start` on. Raises Damaged."""
        parts = [
            _chunks(folder, totals)
            for folder, totals in zip(self._folders, self._totals, strict=True)
        ]
        merged = heapq.merge(*parts, key=lambda placed: placed[0])
        return (done for _, done in itertools.islice(merged, start, None))


def _chunks(folder: Path, totals: Totals) -> Iterator[tuple[At, Done]]:
    for number in range(totals.pieces):
        yield from _piece(folder / _name(number))


def _piece(stem: Path) -> Iterator[tuple[At, Done]]:
    """Yield the chunks of a piece. Raises Damaged, at its end at the latest, if it was changed."""

    def changed(suffix: str) -> Damaged:
        return Damaged(
            f"{stem}.{suffix}: is not the file that was written.\n  fix: prepare this part again."
        )

    try:
        digests = json.loads(stem.with_suffix(".json").read_bytes())["sha256"]
        lines = stem.with_suffix(".jsonl").read_bytes()
        if hashlib.sha256(lines).hexdigest() != digests["jsonl"]:
            raise changed("jsonl")
        signatures = None
        if "npz" in digests:
            path = stem.with_suffix(".npz")
            if hashlib.sha256(path.read_bytes()).hexdigest() != digests["npz"]:
                raise changed("npz")
            signatures = iter(Signatures.load(path))
        with stem.with_suffix(".tar").open("rb") as tar:
            read = hashlib.sha256()
            for line in lines.splitlines():
                value = json.loads(line)
                rows = [
                    tuple(_made(row, tar, read.update, signatures) for row in record)
                    for record in value["records"]
                ]
                yield (value["at"][0], value["at"][1]), Done(tuple(rows))
            read.update(tar.read())
            if read.hexdigest() != digests["tar"]:
                raise changed("tar")
    except FileNotFoundError as error:
        raise Damaged(f"{error.filename}: is missing; the part is not whole.") from None


def _made(
    row: dict[str, Any],
    tar: BinaryIO,
    read: Callable[[bytes], None],
    signatures: Iterator[Any] | None,
) -> Made | SetAside:
    if "aside" in row:
        return SetAside(**row["aside"])
    data = tar.read(row["bytes"])
    read(data)
    images = tuple((offset, size) for offset, size in row["images"])
    packed = Packed(row["key"], row["digest"], data, row["start"], images, row["row"])
    columns = ("num_text_tokens", "num_supervised", "num_images")
    prints = None if row["prints"] is None else Prints(tuple(row["prints"][0]), row["prints"][1])
    signature = None if signatures is None else next(signatures)
    counts = Counts(*(row["row"][name] for name in columns))
    return Made(packed, row["kind"], counts, signature, prints, row["left_out"])


def _name(number: int) -> str:
    return f"piece-{number:05d}"
