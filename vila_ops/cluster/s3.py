"""A minio client of a cluster's store from here, and what its refusals mean."""

from __future__ import annotations

import dataclasses
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
    from minio.credentials.providers import Provider
    from urllib3 import PoolManager

_SILENT_S = 15.0


@dataclass(frozen=True)
class Keys:
    """An access key and its secret, which no message ever holds. `source` says where from.

    `provider` gives them instead where they come and go: a service account's own identity.
    """

    access: str
    secret: str = field(repr=False)
    source: str = ""
    token: str | None = field(default=None, repr=False)
    provider: Provider | None = field(default=None, repr=False)

    def credentials(self) -> Provider:
        """Return them as the client takes them."""
        from minio.credentials.providers import StaticProvider

        return self.provider or StaticProvider(self.access, self.secret, self.token)


def own_identity(place: Place) -> Keys:
    """Return the keys that a store would use here: a file's, an account's (STS), a machine's.

    Raises UserError when there are none.
    """
    from vila_core.store.s3_settings import S3Settings

    settings = dataclasses.replace(
        S3Settings.from_environment(), endpoint=place.endpoint, region=place.region
    )
    return Keys("", "", "this account's own identity", provider=settings.credentials())


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
    """Yield a client whose server may be silent for seconds only, and its kind of connections.

    Certificates and the style of addresses are those of stores (docs/reference/store.md).
    """
    from vila_core.store.s3_settings import S3Settings

    with _certificate(place.ca) as ca:
        known = S3Settings.from_environment()
        settings = dataclasses.replace(
            known,
            endpoint=place.endpoint,
            region=place.region,
            timeout_s=_SILENT_S,
            ca=ca or known.ca,
        )
        pool = settings.http(repeat=True)
        try:
            yield settings.client(keys.credentials(), repeat=True), pool
        finally:
            pool.clear()


@contextmanager
def _certificate(text: str | None) -> Iterator[str | None]:
    """Yield a file with the certificates that are trusted; None: those of the machine."""
    if text is None:
        yield None
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
