"""Objects from a bucket, piece by piece: several ranges at a time, in order, of one version.

Each range is asked for under the condition that the object is still the same (its etag), and one
that breaks off is gone on with where it did. Memory: `parallel` + 2 pieces.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.errors import Conflict, Damaged, StoreError
from vila_core.store.base import CHUNK, RESERVED
from vila_core.store.s3_errors import OutOfRange, explained, persistently
from vila_core.store.s3_settings import Place

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

PIECE = 8 * 2**20
"""Bytes that are asked for at a time."""

SHA256_HEADER = "x-amz-meta-sha256"
"""Where an object says what its content must be; what this package writes has it where known."""


@dataclass(frozen=True)
class Reading:
    """One version of an object: its etag, its size, the sha256 that it claims, its bytes.

    Each piece is good until the next one is asked for.
    """

    etag: str
    size: int
    sha256: str | None
    pieces: Generator[memoryview]


@dataclass
class _Head:
    etag: str
    size: int
    sha256: str | None


def read(place: Place, *, etag: str | None = None) -> Reading:
    """Begin to read an object, the version with that etag if one is given.

    Raises NotFound, Unreachable, and Conflict when it is another version, also on the way.
    """
    try:
        first, head = _range(place, 0, PIECE, etag, bytearray(PIECE))
    except OutOfRange:  # an empty object has no first byte
        with explained(place.uri, "read"):
            found = place.client.stat_object(place.bucket, place.name)
        metadata = found.metadata or {}
        return Reading(found.etag or "", 0, metadata.get(SHA256_HEADER), _no_pieces())
    return Reading(head.etag, head.size, head.sha256, _pieces(place, head, first))


def download(place: Place, path: Path, sha256: str | None) -> None:
    """Write an object into a file, atomically, checked.

    Its sha256 must be `sha256`, or else what the object itself claims. Raises NotFound, Damaged,
    StoreError.
    """
    for attempt in (1, 2, 3):
        try:
            return _download(place, path, sha256)
        except (Conflict, Damaged):  # replaced while it was read; or it was the network's fault
            if attempt == 3:
                raise


def check(place: Place, found: str, expected: str | None) -> None:
    """Raise Damaged unless the sha256 is the expected one, or none is expected."""
    if expected not in (None, found):
        raise Damaged(
            f"{place.uri}: does not match its digest: its sha256 is {found[:12]}…, not "
            f"{expected[:12]}…; it was damaged in the store, or on the way."
        )


def _download(place: Place, path: Path, sha256: str | None) -> None:
    reading = read(place)
    aside = path.parent / f"{RESERVED}{uuid.uuid4().hex}"
    try:
        found = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(reading.pieces), aside.open("xb") as file:
            for piece in reading.pieces:
                found.update(piece)
                file.write(piece)
        check(place, found.hexdigest(), sha256 or reading.sha256)
        aside.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{place.uri}: can't be kept at {path}: {reason}.") from error
    finally:
        aside.unlink(missing_ok=True)


def _no_pieces() -> Generator[memoryview]:
    yield memoryview(b"")


def _pieces(place: Place, head: _Head, first: memoryview) -> Generator[memoryview]:
    """Yield the pieces in order; each is good until the next is asked for."""
    start, stop = len(first), threading.Event()
    yield first
    if start >= head.size:
        return
    parallel = place.settings.parallel
    # Memory that is used again: new pages for each piece would cost as much as its sha256.
    free = [bytearray(PIECE) for _ in range(parallel + 1)]
    pending: deque[tuple[bytearray, Future[tuple[memoryview, _Head]]]] = deque()
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="vila-s3")
    try:
        for offset in [*range(start, head.size, PIECE), head.size]:
            while pending and (not free or offset == head.size):
                buffer, future = pending.popleft()
                yield future.result()[0]
                free.append(buffer)
            if length := min(PIECE, head.size - offset):
                buffer = free.pop()
                task = (place, offset, length, head.etag, buffer, stop)
                pending.append((buffer, pool.submit(_range, *task)))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _range(
    place: Place,
    start: int,
    length: int,
    etag: str | None,
    buffer: bytearray,
    stop: threading.Event | None = None,
) -> tuple[memoryview, _Head]:
    """Return that many bytes of an object, fewer where it ends, and what it says of itself."""
    view, done = memoryview(buffer), 0
    head: _Head | None = None

    def more() -> None:
        nonlocal head, done
        if done == length:
            return
        known = head.etag if head else etag
        with _response(place, start + done, length - done, known) as response:
            head = _head(place, response, start + done, known)
            for chunk in response.stream(CHUNK):
                if len(chunk) > length - done:
                    raise _no_ranges(place)
                view[done : done + len(chunk)] = chunk
                done += len(chunk)
                if stop is not None and stop.is_set():
                    return

    stopped = (lambda: False) if stop is None else stop.is_set
    persistently(more, patience_s=place.settings.timeout_s, stopped=stopped)
    assert head is not None
    return view[:done], head


@contextlib.contextmanager
def _response(
    place: Place, offset: int, length: int, etag: str | None
) -> Iterator[BaseHTTPResponse]:
    # The bare etag: servers were found that refuse the quoted form of the standard.
    condition = {"If-Match": etag} if etag else {}
    with explained(place.uri, "read"):
        response = place.once.get_object(
            place.bucket, place.name, offset, length, request_headers={**condition}
        )
        try:
            yield response
        finally:
            response.close()
            response.release_conn()


def _head(place: Place, response: BaseHTTPResponse, offset: int, etag: str | None) -> _Head:
    """Return what an answer says of its object. Raises Conflict when that is another version."""
    headers = response.headers
    found = headers.get("etag", "").strip('"')
    if etag not in (None, found):
        raise Conflict(f"{place.uri}: was changed by somebody else while it was read.")
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("content-range", ""))
    size = int(told[2] if told else headers.get("content-length") or 0)
    if int(told[1]) != offset if told else (offset or size > PIECE):
        raise _no_ranges(place)
    return _Head(found, size, headers.get(SHA256_HEADER))


def _no_ranges(place: Place) -> StoreError:
    return StoreError(f"{place.uri}: can't be read: the server answers no ranges of objects.")
