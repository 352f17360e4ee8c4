"""A bucket as a store, through the minio client: any S3 endpoint with conditional writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vila_core.errors import (
    AlreadyExists,
    Conflict,
    NotFound,
    StoreError,
    Unreachable,
    UserError,
)
from vila_core.store.base import CHUNK, Store, check_key

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import PoolManager

_MISSING = ("NoSuchKey", "NoSuchObject", "ResourceNotFound")
_LOST = ("PreconditionFailed", "ConditionalRequestConflict")
_PASSING = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "SlowDownRead")
_FIXES = {
    "NoSuchBucket": "there is no such bucket; create it, or use another one",
    "AccessDenied": "access denied; check the bucket's policy and the credentials",
    "InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "XMinioStorageFull": "no space left in the store; free some or use another one",
    "QuotaExceeded": "the bucket's quota is used up; free some space or raise it",
}


class S3Store(Store):
    """A store under a prefix of a bucket. `create_only` and `swap` are conditional PUTs."""

    def __init__(self, client: Minio, once: Minio, bucket: str, prefix: str = "") -> None:
        """Use `client`, and for conditional writes `once`, which must not repeat a request."""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client
        self._once = once
        self._bucket = bucket
        self._lead = f"{prefix}/" if prefix else ""

    @classmethod
    def from_environment(cls, bucket: str, prefix: str) -> S3Store:
        """Open with VILA_S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION.

        The endpoint is a URL; without one it is AWS. Raises UserError for what is missing.
        """
        from minio import Minio

        missing = [
            name
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            if not os.environ.get(name)
        ]
        if missing:
            raise UserError(f"s3://{bucket}: needs credentials; fix: set {' and '.join(missing)}.")
        endpoint = os.environ.get("VILA_S3_ENDPOINT", "https://s3.amazonaws.com")
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise UserError(
                f"VILA_S3_ENDPOINT={endpoint}: is not an endpoint; "
                "fix: a URL without path, such as http://minio:9000."
            )
        client, once = (
            Minio(
                parts.netloc,
                access_key=os.environ["AWS_ACCESS_KEY_ID"],
                secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
                session_token=os.environ.get("AWS_SESSION_TOKEN"),
                region=os.environ.get("AWS_REGION", "us-east-1"),
                secure=parts.scheme == "https",
                http_client=_http_client(repeat),
            )
            for repeat in (True, False)
        )
        return cls(client, once, bucket, prefix)

    def read(self, key: str) -> bytes:
        """Return the value. Raises NotFound."""
        with self._explained(key, "read"):
            response = self._client.get_object(self._bucket, self._name(key))
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the value piece by piece, asking once. Raises NotFound, Unreachable."""
        with self._explained(key, "read"):
            response = self._once.get_object(self._bucket, self._name(key))
            try:
                yield from response.stream(CHUNK)
            finally:
                response.close()
                response.release_conn()

    def write(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """Write atomically. With `create_only` an existing key raises AlreadyExists."""
        if not create_only:
            self._put(key, data, {})
            return
        try:
            self._put(key, data, {"If-None-Match": "*"})
        except Conflict:
            raise AlreadyExists(f"{self.uri}/{key}: exists already.") from None

    def swap(self, key: str, data: bytes, *, expected: str | None) -> str:
        """Write if the etag is still `expected` (None: no such key yet); return the new etag."""
        # The bare etag: servers were found that refuse the quoted form of the standard.
        condition = {"If-None-Match": "*"} if expected is None else {"If-Match": expected}
        return self._put(key, data, condition)

    def etag(self, key: str) -> str | None:
        """Return the server's etag, or None when there is no such key."""
        try:
            with self._explained(key, "read"):
                found = self._client.stat_object(self._bucket, self._name(key))
        except NotFound:
            return None
        return (found.etag or "").strip('"')

    def delete(self, key: str) -> None:
        """Remove the key; no error when it is gone already."""
        with contextlib.suppress(NotFound), self._explained(key, "removed"):
            self._client.remove_object(self._bucket, self._name(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, sorted (as S3 lists them)."""
        for key, _ in self.etags(prefix):
            yield key

    def etags(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield keys with their etags, a thousand a request."""
        with self._explained(prefix, "listed"):
            for found in self._client.list_objects(
                self._bucket, prefix=self._lead + prefix, recursive=True
            ):
                name = (found.object_name or "").removeprefix(self._lead)
                yield name, (found.etag or "").strip('"')

    def children(self, folder: str) -> list[str]:
        """Return the sorted names directly below `folder`, keys and folders alike."""
        lead = f"{self._lead}{folder}/" if folder else self._lead
        with self._explained(folder, "listed"):
            found = self._client.list_objects(self._bucket, prefix=lead)
            return sorted((item.object_name or "").removeprefix(lead).rstrip("/") for item in found)

    def upload(self, key: str, path: Path) -> None:
        """Write a file's content; large files go in parts."""
        with self._explained(key, "written"):
            self._client.fput_object(self._bucket, self._name(key), str(path))

    def download(self, key: str, path: Path) -> None:
        """Write the value into the file `path`, atomically. Raises NotFound."""
        with self._explained(key, "read"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._client.fget_object(self._bucket, self._name(key), str(path))

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        """PUT with a condition and return the etag. Raises Conflict when the condition fails."""
        headers: dict[str, str | list[str] | tuple[str]] = {
            "Content-Type": "application/octet-stream",
            **condition,
        }
        # Sent again after a lost answer, a conditional PUT would meet its own first writing.
        client = self._once if condition else self._client
        # Ceph's RGW (16.2) answers UnknownError to the loser of a race: it has written nothing.
        with self._explained(key, "written", racing=bool(condition)):
            # minio's public put_object takes no conditions; this is the call that it ends in.
            result = client._put_object(self._bucket, self._name(key), data, headers)
        return (result.etag or "").strip('"')

    def _name(self, key: str) -> str:
        return self._lead + check_key(key)

    @contextlib.contextmanager
    def _explained(self, key: str, verb: str, *, racing: bool = False) -> Iterator[None]:
        """Turn errors of the server, the network and the local disk into StoreErrors."""
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError, IncompleteRead

        place = f"{self.uri}/{key}"
        try:
            yield
        except S3Error as error:
            if error.code in _MISSING:
                raise NotFound(f"{place}: there is no such key.") from None
            if error.code in _LOST or (racing and error.code == "UnknownError"):
                raise Conflict(f"{place}: was changed by somebody else; read it again.") from None
            reason = _FIXES.get(error.code or "", f"{error.code}: {error.message}")
            kind = Unreachable if error.code in _PASSING else StoreError
            raise kind(f"{place}: can't be {verb}: {reason}.") from error
        except (MinioException, HTTPError) as error:
            if any(isinstance(cause, IncompleteRead) for cause in (error, *error.args)):
                raise Unreachable(
                    f"{place}: can't be {verb}: the answer broke off before its announced length."
                ) from error
            raise Unreachable(
                f"{place}: can't be {verb}: the server does not answer ({type(error).__name__}); "
                "fix: check VILA_S3_ENDPOINT and the network."
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(f"{place}: can't be {verb}: {error.filename}: {reason}.") from error


def _http_client(repeat: bool) -> PoolManager:
    from urllib3 import PoolManager, Retry, Timeout

    # A store that is not there should be told within seconds, not minutes.
    codes = [500, 502, 503, 504] if repeat else [503]
    retry = Retry(total=3, read=None if repeat else 0, backoff_factor=0.2, status_forcelist=codes)
    return PoolManager(timeout=Timeout(connect=5, read=_patience()), maxsize=10, retries=retry)


def _patience() -> float:
    """Return how many seconds a server may be silent. Raises UserError for a bad setting."""
    text = os.environ.get("VILA_S3_TIMEOUT", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"VILA_S3_TIMEOUT={text}: is not a number of seconds above zero.")
    return seconds
