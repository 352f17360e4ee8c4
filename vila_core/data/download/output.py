"""A shard's files: images, the table of all rows, and last the counts that mark it finished.

All is written aside and comes to its place by renames that a later call would complete.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from vila_core.data.download import tars
from vila_core.data.download.corpus import IMAGES, OWN, URL, Row, Shard
from vila_core.data.download.reasons import FAILED, SUCCESS, UNUSABLE, Failure
from vila_core.errors import UserError
from vila_core.jsonio import dumps, read_object

_WORK = ".downloading"
_PART, _READY = ".part", ".ready"
_STATS = "_stats.json"
_TABLE, _TAR, _COUNTS, _FOLDER, _SPOOL = "table", "tar", "counts", "images", "spool"


@dataclass(frozen=True)
class Stored:
    """An image that is there. `place` is where the spool has it: offset and size."""

    extension: str
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str  # of the file as it was fetched
    place: tuple[int, int] | None = None


Result = Stored | Failure


class Output:
    """The folder that shards come to. `packed` ones are tars, others folders of images."""

    def __init__(self, folder: Path, *, packed: bool) -> None:
        self.folder, self.packed = folder, packed
        self._work = folder / _WORK

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and finish what a killed one had ready.

        Raises UserError when another process is at work.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        with (self._work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.folder}: another process downloads into it.") from None
            for left in sorted(self._work.iterdir()):
                if left.name.endswith(_PART):
                    shutil.rmtree(left)
                elif left.name.endswith(_READY):
                    self._publish(left, unquote(left.name.removesuffix(_READY)))
            yield

    def finished(self) -> list[str]:
        """Return the names of the finished shards, sorted."""
        names: list[str] = []
        for place, below, files in os.walk(self.folder):
            # Not into the images: there may be millions.
            below[:] = [one for one in below if one[0] != "." and not one.endswith(IMAGES)]
            inside = Path(place).relative_to(self.folder)
            ends = (one.removesuffix(_STATS) for one in files if one.endswith(_STATS))
            names += [(inside / one).as_posix() for one in ends]
        return sorted(names)

    def counts(self, name: str) -> dict[str, Any]:
        """Return a finished shard's counts."""
        return read_object(self.folder / f"{name}{_STATS}")

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a finished shard's rows as its table has them. Raises UserError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.folder / f"{name}.parquet"
        try:
            return pq.ParquetFile(path).read().to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{path}: is not readable: {error}\n"
                f"  fix: delete {name}{_STATS}, then the shard is fetched again"
            ) from None

    def begin(self, shard: Shard) -> Part:
        """Return a place for a shard's images."""
        folder = self._work / f"{quote(shard.name, safe='')}{_PART}"
        return Part(folder, self.packed)

    def finish(self, shard: Shard, results: Sequence[Result], part: Part, *, again: bool) -> None:
        """Write a shard. With `again`, images of its earlier self without a place stay."""
        rows = list(zip(shard.rows, results, strict=True))
        if self.packed:
            old = self.folder / f"{shard.name}.tar"
            tars.write(
                part.folder / _TAR,
                [
                    tars.Entry(row.name, result.extension, result.place, _about(row, result))
                    for row, result in rows
                    if isinstance(result, Stored)
                ],
                part.read,
                old if again else None,
            )
        part.close()
        _write_table(part.folder / _TABLE, [_record(row, result) for row, result in rows])
        counts = _counts(results, shard.broken_records)
        (part.folder / _COUNTS).write_text(dumps(counts, indent=2) + "\n", encoding="utf-8")
        _sync(part.folder / _COUNTS)
        ready = part.folder.with_name(part.folder.name.removesuffix(_PART) + _READY)
        part.folder.rename(ready)
        _sync(self._work)
        self._publish(ready, shard.name)

    def _publish(self, ready: Path, name: str) -> None:
        """Move a shard's files to their places, the counts last. Can be repeated at any point."""
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not self.packed:
            self._publish_images(ready / _FOLDER, place)
        for inside, end in ((_TAR, ".tar"), (_TABLE, ".parquet"), (_COUNTS, _STATS)):
            if (ready / inside).exists():
                (ready / inside).replace(place.with_name(f"{place.name}{end}"))
        _sync(place.parent)
        shutil.rmtree(ready)

    def _publish_images(self, images: Path, place: Path) -> None:
        if not images.is_dir():
            return
        if not place.exists():
            images.rename(place)
            return
        for image in images.iterdir():
            image.replace(place / image.name)


class Part:
    """Images of a shard that isn't finished, by threads in any order."""

    def __init__(self, folder: Path, packed: bool) -> None:
        self.folder, self._packed = folder, packed
        self._lock, self._size = threading.Lock(), 0
        folder.mkdir()
        if packed:
            self._file = (folder / _SPOOL).open("w+b", buffering=0)
        else:
            (folder / _FOLDER).mkdir()

    def put(self, name: str, data: bytes) -> tuple[int, int] | None:
        """Keep an image; return its place in the spool."""
        if not self._packed:
            (self.folder / _FOLDER / name).write_bytes(data)
            return None
        with self._lock:
            place = (self._size, len(data))
            self._file.seek(self._size)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._size += len(data)
        return place

    def read(self, place: tuple[int, int]) -> bytes:
        """Return an image that `put` has kept in the spool."""
        offset, size = place
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        """End writing and reading; images that stay are safe on the disk from here on."""
        self.discard()
        if self._packed:
            (self.folder / _SPOOL).unlink()
        else:
            for image in (self.folder / _FOLDER).iterdir():
                _sync(image)

    def discard(self) -> None:
        """Let go of the file; what is in the folder is for the next call to remove."""
        if self._packed:
            self._file.close()


def _about(row: Row, result: Result) -> dict[str, Any]:
    return {name: value for name, value in _record(row, result).items() if name != "reason"}


def _record(row: Row, result: Result) -> dict[str, Any]:
    """Return a row of the table."""
    url = row.url if isinstance(row.url, str) else None
    record = {**row.about, URL: url.encode("utf-8", "replace").decode() if url else None}
    if isinstance(result, Failure):
        own: dict[str, Any] = dict.fromkeys(OWN)
        own |= {"status": result.kind.status, "reason": result.reason}
        own |= {"error_message": result.message}
    else:
        own = {
            "status": SUCCESS,
            "reason": None,
            "error_message": None,
            "width": result.width,
            "height": result.height,
            "original_width": result.original_width,
            "original_height": result.original_height,
            "sha256": result.sha256,
        }
    return {**record, **own, "key": row.name}


def _write_table(path: Path, records: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = sorted({name for record in records for name in record} - set(OWN))
    arrays: dict[str, Any] = {}
    for name in [*OWN, *columns]:
        values = [record.get(name) for record in records]
        kind = pa.string()
        if name in OWN and name.endswith(("width", "height")):
            kind = pa.int64()
        elif name not in OWN and not all(isinstance(one, str | None) for one in values):
            kind = None
        try:
            arrays[name] = pa.array(values, kind)
        except (pa.ArrowException, TypeError):  # numbers in some rows, texts in others
            texts = [one if isinstance(one, str | None) else dumps(one) for one in values]
            arrays[name] = pa.array(texts, pa.string())
    pq.write_table(pa.table(arrays), path, compression="zstd")
    _sync(path)


def _counts(results: Sequence[Result], broken: int) -> dict[str, Any]:
    """Return img2dataset's counts without its times: equal answers give equal bytes."""
    failures = [one for one in results if isinstance(one, Failure)]
    by_status = Counter(one.kind.status for one in failures)
    return {
        "count": len(results),
        "successes": len(results) - len(failures),
        FAILED: by_status[FAILED],
        UNUSABLE: by_status[UNUSABLE],
        "may_heal": sum(one.kind.heals for one in failures),
        "status_dict": {
            SUCCESS: len(results) - len(failures),
            **dict(sorted(Counter(one.reason for one in failures).items())),
        },
        "broken_records": broken,
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
