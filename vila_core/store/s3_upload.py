"""Values and files to a bucket: large files in parallel parts, all of it confirmed by the server.

The guarantee: what returns has arrived. Each request carries the MD5 of its body, and the etag that
the server computes from what it received must be that MD5 (of an object in parts: the MD5 of the
parts' MD5s). The sha256 of the whole is computed in the same pass over the file. Where an etag is
no MD5, because the server encrypts, or where the settings want it, the object is read back and its
sha256 compared. Memory: `parallel` + 2 parts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vila_core.errors import Conflict, Damaged, NotFound, StoreError, Unreachable
from vila_core.store.s3_download import SHA256_HEADER, check, read
from vila_core.store.s3_errors import DamagedOnTheWay, UploadGone, explained, persistently
from vila_core.store.s3_settings import Place

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    from minio.helpers import ObjectWriteResult

PART = 16 * 2**20
"""Bytes of a part; more where a file would have more than 10,000 of them."""

ABANDONED = timedelta(days=1)
"""An unfinished upload of other content is taken for a dead process's after this time."""

_MOST_PARTS = 10_000
_ATTEMPTS = 3
_BINARY = {"Content-Type": "application/octet-stream"}


def put(place: Place, data: bytes, condition: Mapping[str, str]) -> str:
    """Write a small object under a condition, if any; return its etag. Raises Conflict, Damaged."""
    sha256 = hashlib.sha256(data).hexdigest()
    headers = {**_BINARY, SHA256_HEADER: sha256, **place.settings.write_headers()}
    # Sent again after a lost answer, a conditional PUT would meet its own first writing.
    client = place.once if condition else place.client
    condition, etag = dict(condition), ""

    def send(body: Mapping[str, str]) -> ObjectWriteResult:
        with explained(place.uri, "written", racing=bool(condition)):
            # minio's public put_object takes no conditions; this is the call that it ends in.
            return client._put_object(
                place.bucket, place.name, data, {**headers, **condition, **body}
            )

    def again(damaged: str) -> None:
        nonlocal etag
        etag = damaged
        if condition:  # what is there now is ours, and to be replaced
            condition.clear()
            condition["If-Match"] = etag

    try:
        md5 = hashlib.md5(data, usedforsecurity=False)
        etag, confirmed = _confirmed(place, md5, send, again)
        if not confirmed:
            _read_back(place, etag, sha256)
    except Damaged:
        _take_back(place, etag)
        raise
    return etag


def upload(place: Place, source: BinaryIO, path: Path, sha256: str | None) -> None:
    """Write the content of an open file.

    What was begun and can't be finished is taken back; what a killed process has begun is gone on
    with if it begins as this file does. Raises Damaged where the content is not that of `sha256`,
    or the server keeps getting something else than was sent.
    """
    size = os.fstat(source.fileno()).st_size
    if size <= PART:
        data = source.read()
        if sha256 is not None:
            _check_source(path, hashlib.sha256(data).hexdigest(), sha256)
        persistently(lambda: put(place, data, {}), patience_s=place.settings.timeout_s)
        return
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _Parts(place, source, path, size, sha256).run(join=attempt == 1)
        except UploadGone:
            if attempt == _ATTEMPTS:
                raise


def abort_unfinished(place: Place, older: timedelta) -> int:
    """End the unfinished uploads whose names begin as `place`'s; return how many there were.

    Only those that began `older` ago. MinIO lists them by their whole name alone; it removes old
    ones by itself.
    """
    ended = 0
    for name, upload_id, began in list(_unfinished(place)):
        if datetime.now(UTC) - began >= older:
            _abort(place, name, upload_id)
            ended += 1
    return ended


@dataclass
class _Parts:
    """One upload in parts."""

    place: Place
    source: BinaryIO
    path: Path
    size: int
    sha256: str | None
    _there: dict[int, tuple[str, int]] = field(default_factory=dict)  # etag and size by number
    _upload_id: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _confirmed: bool = True

    def run(self, *, join: bool) -> None:
        """Send all parts and have the server put them together. Raises UploadGone, StoreError."""
        self._begin(join)
        pool = ThreadPoolExecutor(self.place.settings.parallel, thread_name_prefix="vila-s3")
        try:
            whole, md5s = self._send(pool)
            _check_source(self.path, whole, self.sha256)
            etag = self._complete(md5s)
        except BaseException:
            # Parts in flight would land after the abort and stay: it comes when they have ended.
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            with contextlib.suppress(StoreError):
                _abort(self.place, self.place.name, self._upload_id)
            raise
        finally:
            pool.shutdown()
        if not self._confirmed:
            try:
                _read_back(self.place, etag, whole)
            except Damaged:
                _take_back(self.place, etag)
                raise

    @property
    def _length(self) -> int:
        step = 2**20
        return max(PART, math.ceil(self.size / _MOST_PARTS / step) * step)

    def _begin(self, join: bool) -> None:
        """Start an upload, or go on with one that was begun with the same first part."""
        for upload_id, began in self._begun():
            parts = _listed(self.place, upload_id) if join else {}
            first = hashlib.md5(self._read(1), usedforsecurity=False).hexdigest() if parts else ""
            if parts.get(1) == (first, self._length):
                self._upload_id, self._there = upload_id, parts
                return
            if datetime.now(UTC) - began >= ABANDONED:
                with contextlib.suppress(StoreError):
                    _abort(self.place, self.place.name, upload_id)
        headers = {**_BINARY, **self.place.settings.write_headers()}
        if self.sha256 is not None:
            headers[SHA256_HEADER] = self.sha256

        def create() -> str:
            with explained(self.place.uri, "written"):
                return self.place.once._create_multipart_upload(
                    self.place.bucket, self.place.name, {**headers}
                )

        self._upload_id = persistently(create, patience_s=self.place.settings.timeout_s)

    def _begun(self) -> list[tuple[str, datetime]]:
        """Return the unfinished uploads of this name; none where they may not be listed."""
        try:
            found = list(_unfinished(self.place))
        except StoreError:
            return []
        return [(upload_id, began) for name, upload_id, began in found if name == self.place.name]

    def _send(self, pool: ThreadPoolExecutor) -> tuple[str, list[str]]:
        """Return the sha256 of the whole and the MD5 (hex) of each part, all of which are there."""
        whole = hashlib.sha256()
        room = threading.Semaphore(self.place.settings.parallel + 1)
        pending: deque[Future[str]] = deque()
        md5s: list[str] = []
        for number in range(1, math.ceil(self.size / self._length) + 1):
            room.acquire()
            while pending and pending[0].done():
                md5s.append(pending.popleft().result())
            data = self._read(number)
            whole.update(data)
            pending.append(pool.submit(self._send_part, number, data))
            del data  # its thread alone holds it
            pending[-1].add_done_callback(lambda _: room.release())
        return whole.hexdigest(), md5s + [future.result() for future in pending]

    def _read(self, number: int) -> bytes:
        offset = (number - 1) * self._length
        want = min(self._length, self.size - offset)
        found: list[bytes] = []
        while want and (piece := os.pread(self.source.fileno(), want, offset)):
            found.append(piece)
            offset, want = offset + len(piece), want - len(piece)
        if want:
            raise StoreError(f"{self.path}: became shorter while it was uploaded.")
        return found[0] if len(found) == 1 else b"".join(found)

    def _send_part(self, number: int, data: bytes) -> str:
        place, md5 = self.place, hashlib.md5(data, usedforsecurity=False)
        if self._there.get(number) == (md5.hexdigest(), len(data)):
            return md5.hexdigest()
        query = {"partNumber": str(number), "uploadId": self._upload_id}

        def send(headers: Mapping[str, str]) -> ObjectWriteResult:
            def once() -> ObjectWriteResult:
                with explained(place.uri, "written"):
                    return place.once._put_object(
                        place.bucket, place.name, data, {**headers}, query_params={**query}
                    )

            return persistently(
                once, patience_s=place.settings.timeout_s, stopped=self._stop.is_set
            )

        etag, confirmed = _confirmed(place, md5, send)
        if not confirmed:
            self._confirmed = False
        return etag

    def _complete(self, etags: list[str]) -> str:
        """Have the server put the parts together; return the etag of the object."""
        from minio.datatypes import Part

        place, parts = self.place, [Part(number, etag) for number, etag in enumerate(etags, 1)]
        expected = ""
        if self._confirmed:
            joined = b"".join(map(bytes.fromhex, etags))
            expected = f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"

        def complete() -> str:
            try:
                with explained(place.uri, "written"):
                    done = place.once._complete_multipart_upload(
                        place.bucket, place.name, self._upload_id, parts
                    )
                if not done.etag:  # S3 may say 200 and then think better of it
                    raise Unreachable(f"{place.uri}: can't be written: its parts weren't joined.")
                return done.etag
            except (Unreachable, UploadGone):
                # The answer to an earlier try was lost, or another process has written the same.
                if expected and _etag(place) == expected:
                    return expected
                raise

        etag = persistently(complete, patience_s=place.settings.timeout_s)
        self._confirmed = self._confirmed and etag == expected
        return etag


def _confirmed(
    place: Place,
    digest: Hash,
    send: Callable[[Mapping[str, str]], ObjectWriteResult],
    again: Callable[[str], None] = lambda etag: None,
) -> tuple[str, bool]:
    """Send a body until the server has got just that; return its etag, and whether that proves it.

    `digest` is the body's MD5.
    Raises Damaged when it still has not after three times.
    """
    md5 = {"Content-MD5": base64.b64encode(digest.digest()).decode()}
    error: DamagedOnTheWay | None = None
    for _ in range(_ATTEMPTS):
        try:
            answer = send(md5)
        except DamagedOnTheWay as told:
            error = told
            continue
        etag = (answer.etag or "").strip('"')
        if place.settings.read_back:
            return etag, False
        if etag == digest.hexdigest():
            return etag, True
        if _encrypts(place, answer.http_headers):
            return etag, False
        again(etag)
    raise Damaged(
        f"{place.uri}: the server got other bytes than were sent, {_ATTEMPTS} times; fix: look at "
        "the network and the proxies on the way. (Of a server whose etags are no MD5s: "
        "VILA_S3_VERIFY=read.)"
    ) from error


def _encrypts(place: Place, headers: Mapping[str, Any]) -> bool:
    """Return whether the server keeps an object encrypted: its etag need not be an MD5 then."""
    return place.settings.encryption is not None or any(
        name.lower().startswith("x-amz-server-side-encryption") for name in headers
    )


def _read_back(place: Place, etag: str, sha256: str) -> None:
    """Raise Damaged unless the object, if it is still that version, has this sha256."""
    whole = hashlib.sha256()
    try:
        for piece in read(place, etag=etag).pieces:
            whole.update(piece)
    except (Conflict, NotFound):
        return  # somebody has written or removed it since: nothing is left to prove
    check(place, whole.hexdigest(), sha256)


def _take_back(place: Place, etag: str) -> None:
    """Remove the object if it still is that version."""
    if not etag or _etag(place) != etag:
        return
    with contextlib.suppress(StoreError), explained(place.uri, "removed"):
        place.client.remove_object(place.bucket, place.name)


def _check_source(path: Path, found: str, expected: str | None) -> None:
    if expected not in (None, found):
        raise Damaged(
            f"{path}: has changed since its digest was taken: its sha256 is {found[:12]}…, not "
            f"{expected[:12]}…"
        )


def _etag(place: Place) -> str | None:
    try:
        with explained(place.uri, "read"):
            return (place.client.stat_object(place.bucket, place.name).etag or "").strip('"')
    except StoreError:
        return None


def _unfinished(place: Place) -> Iterator[tuple[str, str, datetime]]:
    """Yield name, id and beginning of the unfinished uploads whose names begin as `place`'s."""
    marker: str | None = None
    while True:
        with explained(place.uri, "listed"):
            found = place.client._list_multipart_uploads(
                place.bucket, prefix=place.name, key_marker=marker
            )
        for one in found.uploads:
            if one.upload_id and one.initiated_time:
                yield one.object_name, one.upload_id, one.initiated_time
        marker = found.next_key_marker
        if not found.is_truncated or not marker:
            return


def _listed(place: Place, upload_id: str) -> dict[int, tuple[str, int]]:
    """Return etag and size of the parts that an unfinished upload has, by number."""
    parts: dict[int, tuple[str, int]] = {}
    marker: str | None = None
    try:
        while True:
            with explained(place.uri, "listed"):
                found = place.client._list_parts(
                    place.bucket, place.name, upload_id, part_number_marker=marker
                )
            parts.update({part.part_number: (part.etag, part.size or 0) for part in found.parts})
            marker = found.next_part_number_marker
            if not found.is_truncated or not marker:
                return parts
    except StoreError:  # it has just been finished or ended
        return {}


def _abort(place: Place, name: str, upload_id: str) -> None:
    with contextlib.suppress(UploadGone), explained(f"s3://{place.bucket}/{name}", "removed"):
        place.client._abort_multipart_upload(place.bucket, name, upload_id)
