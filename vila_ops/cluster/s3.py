"""A minio client of a cluster's store from here, and what its refusals mean."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vila_core.errors import StoreError, UserError

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import PoolManager

_SILENT_S = 15.0


@dataclass(frozen=True)
class Keys:
    """An access key and its secret, which no message ever holds. `source` says where from."""

    access: str
    secret: str = field(repr=False)
    source: str = ""
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Place:
    """A bucket and a prefix at an endpoint. `ca` is the text of a certificate to trust."""

    endpoint: str
    bucket: str
    prefix: str = ""
    region: str = "us-east-1"
    ca: str | None = None

    @classmethod
    def of(cls, uri: str, endpoint: str, region: str, ca: str | None = None) -> Place:
        """Read a store's URI. Raises UserError for what is none, or not S3."""
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc:
            raise UserError(f"{uri}: is not the URI of a bucket; fix: s3://bucket/prefix.")
        where = urlsplit(endpoint)
        if where.scheme not in ("http", "https") or not where.netloc or where.path.strip("/"):
            raise UserError(
                f"{endpoint}: is not an endpoint; fix: a URL without path, http://minio:9000."
            )
        return cls(endpoint, parts.netloc, parts.path.strip("/"), region, ca)


@contextmanager
def connected(place: Place, keys: Keys) -> Iterator[tuple[Minio, PoolManager]]:
    """Yield a client that asks twice at most and waits seconds only, and its connections."""
    from minio import Minio
    from urllib3 import PoolManager, Retry, Timeout

    with _certificate(place.ca) as ca:
        pool = PoolManager(
            timeout=Timeout(connect=5, read=_SILENT_S),
            retries=Retry(total=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
            ca_certs=ca,
        )
        parts = urlsplit(place.endpoint)
        client = Minio(
            parts.netloc,
            access_key=keys.access or None,
            secret_key=keys.secret or None,
            session_token=keys.token,
            region=place.region,
            secure=parts.scheme == "https",
            http_client=pool,
        )
        try:
            yield client, pool
        finally:
            pool.clear()


@contextmanager
def _certificate(text: str | None) -> Iterator[str | None]:
    """Yield a file with the certificates that are trusted; None: those of the machine."""
    if text is None:
        yield os.environ.get("AWS_CA_BUNDLE") or None
        return
    with tempfile.TemporaryDirectory(prefix="vila-ca-") as folder:
        path = Path(folder) / "ca.crt"
        path.write_text(text)
        yield str(path)


def bucket_exists(client: Minio, bucket: str) -> bool:
    """Return whether there is such a bucket; raise what `failures` names, with the server's code.

    The answer to a HEAD has no body, so that wrong keys look like a missing right: then a listing
    asks again.
    """
    from minio.error import S3Error

    try:
        return client.bucket_exists(bucket)
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
        next(iter(client.list_objects(bucket, prefix="cluster-check/")), None)
        return True


def said(error: Exception) -> str:
    """Return what a server or the network said, in a few words."""
    from minio.error import S3Error

    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def code_of(error: Exception) -> str:
    """Return the S3 code of a refusal, "" for another error."""
    return str(getattr(error, "code", "") or "")


def failures() -> tuple[type[Exception], ...]:
    """Return what the client may raise: refusals, broken connections, answers that are no S3."""
    from xml.etree.ElementTree import ParseError

    from minio.error import MinioException
    from urllib3.exceptions import HTTPError

    return (MinioException, HTTPError, OSError, ParseError, StoreError)
