"""A bucket as a store, through the minio client: any S3 endpoint with conditional writes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.errors import AlreadyExists, Conflict, Damaged, NotFound, StoreError
from vila_core.store import s3_download, s3_upload
from vila_core.store.base import CHUNK, Store, check_key
from vila_core.store.s3_errors import BrokenOff, explained
from vila_core.store.s3_settings import Place, S3Settings, check_bucket

if TYPE_CHECKING:
    from minio.credentials.providers import Provider


class S3Store(Store):
    """A store under a prefix of a bucket. `create_only` and `swap` are conditional PUTs."""

    def __init__(
        self, settings: S3Settings, credentials: Provider, bucket: str, prefix: str = ""
    ) -> None:
        check_bucket(bucket)
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._settings = settings
        self._client = settings.client(credentials, repeat=True)
        self._once = settings.client(credentials, repeat=False)
        self._bucket = bucket
        self._lead = f"{prefix}/" if prefix else ""

    @classmethod
    def from_environment(cls, bucket: str, prefix: str) -> S3Store:
        """Open as the environment says: VILA_S3_ENDPOINT, AWS_ACCESS_KEY_ID, ….

        docs/reference/store.md lists the variables. Raises UserError for what is missing or wrong.
        """
        settings = S3Settings.from_environment()
        return cls(settings, settings.credentials(), bucket, prefix)

    def read(self, key: str) -> bytes:
        """Return the value. Raises NotFound, and Damaged if it isn't what was written."""
        place = self._place(key)
        for attempt in (1, 2, 3):
            try:
                return self._read(place)
            except (BrokenOff, Damaged):
                if attempt == 3:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the value piece by piece, asking once. Raises NotFound, Unreachable."""
        place = self._place(key)
        with explained(place.uri, "read"):
            response = self._once.get_object(self._bucket, place.name)
            try:
                yield from response.stream(CHUNK)
            finally:
                response.close()
                response.release_conn()

    def write(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """Write atomically. With `create_only` an existing key raises AlreadyExists."""
        condition = {"If-None-Match": "*"} if create_only else {}
        try:
            s3_upload.put(self._place(key), data, condition)
        except Conflict:
            raise AlreadyExists(f"{self.uri}/{key}: exists already.") from None

    def swap(self, key: str, data: bytes, *, expected: str | None) -> str:
        """Write if the etag is still `expected` (None: no such key yet); return the new etag."""
        # The bare etag: servers were found that refuse the quoted form of the standard.
        condition = {"If-None-Match": "*"} if expected is None else {"If-Match": expected}
        return s3_upload.put(self._place(key), data, condition)

    def etag(self, key: str) -> str | None:
        """Return the server's etag, or None when there is no such key."""
        place = self._place(key)
        try:
            with explained(place.uri, "read"):
                found = self._client.stat_object(self._bucket, place.name)
        except NotFound:
            return None
        except StoreError as error:
            self._say_why(place)
            raise error
        return (found.etag or "").strip('"')

    def delete(self, key: str) -> None:
        """Remove the key; no error when it is gone already."""
        place = self._place(key)
        with contextlib.suppress(NotFound), explained(place.uri, "removed"):
            self._client.remove_object(self._bucket, place.name)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, sorted (as S3 lists them)."""
        for key, _ in self.etags(prefix):
            yield key

    def etags(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield keys with their etags, a thousand a request."""
        with explained(f"{self.uri}/{prefix}", "listed"):
            for found in self._client.list_objects(
                self._bucket, prefix=self._lead + prefix, recursive=True
            ):
                name = (found.object_name or "").removeprefix(self._lead)
                yield name, (found.etag or "").strip('"')

    def children(self, folder: str) -> list[str]:
        """Return the sorted names directly below `folder`, keys and folders alike."""
        lead = f"{self._lead}{folder}/" if folder else self._lead
        with explained(f"{self.uri}/{folder}", "listed"):
            found = self._client.list_objects(self._bucket, prefix=lead)
            return sorted((item.object_name or "").removeprefix(lead).rstrip("/") for item in found)

    def upload(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Write a file's content, confirmed by the server; large files go in parts.

        See `s3_upload`.
        """
        place = self._place(key)
        with explained(place.uri, "written"), path.open("rb") as source:
            s3_upload.upload(place, source, path, sha256)

    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Write the value into the file `path`, atomically, checked. Raises NotFound, Damaged."""
        s3_download.download(self._place(key), path, sha256)

    def abort_uploads(self, prefix: str = "", *, older: timedelta = timedelta()) -> int:
        """End what uploads of processes that died have left; return how many there were."""
        place = self._at(self._lead + prefix, f"{self.uri}/{prefix}")
        return s3_upload.abort_unfinished(place, older)

    def _read(self, place: Place) -> bytes:
        with explained(place.uri, "read"):
            response = self._client.get_object(self._bucket, place.name)
            try:
                data = response.read()
            finally:
                response.close()
                response.release_conn()
        claimed = response.headers.get(s3_download.SHA256_HEADER)
        s3_download.check(place, hashlib.sha256(data).hexdigest(), claimed)
        return data

    def _say_why(self, place: Place) -> None:
        """Raise the reason of a refusal: the answer to a HEAD has no room for it."""
        with explained(place.uri, "read"):
            response = self._client.get_object(self._bucket, place.name, length=1)
            response.close()
            response.release_conn()

    def _place(self, key: str) -> Place:
        return self._at(self._lead + check_key(key), f"{self.uri}/{key}")

    def _at(self, name: str, uri: str) -> Place:
        return Place(self._client, self._once, self._settings, self._bucket, name, uri)
