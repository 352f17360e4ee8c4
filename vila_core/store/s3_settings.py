"""How a bucket is reached: the environment variables (docs/reference/store.md), the clients."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from vila_core.errors import UserError
from vila_core.store.s3_credentials import provider_from_environment

if TYPE_CHECKING:
    from minio import Minio
    from minio.credentials.providers import Provider
    from urllib3 import PoolManager

AWS = "https://s3.amazonaws.com"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class S3Settings:
    """Everything about the server that isn't a secret.

    `timeout_s` is how long it may be silent; `ca` a file of certificates to trust instead of the
    system's; `encryption` sse-s3, sse-kms or sse-kms:KEY; `read_back` has whole objects read again
    after an upload; `parallel` how many requests one transfer makes at a time.
    """

    endpoint: str = AWS
    region: str = "us-east-1"
    timeout_s: float = 60.0
    ca: str | None = None
    encryption: str | None = None
    virtual_hosts: bool = False
    read_back: bool = False
    parallel: int = 4

    @classmethod
    def from_environment(cls) -> S3Settings:
        """Read the variables. Raises UserError for a value that can't be."""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        found = cls(
            endpoint=os.environ.get("VILA_S3_ENDPOINT") or AWS,
            region=region,
            timeout_s=_seconds("VILA_S3_TIMEOUT", 60.0),
            ca=_certificates(),
            encryption=_encryption(),
            virtual_hosts=_one_of("VILA_S3_STYLE", ("path", "virtual")) == "virtual",
            read_back=_one_of("VILA_S3_VERIFY", ("etag", "read")) == "read",
            parallel=_count("VILA_S3_PARALLEL", 4, 64),
        )
        _parse_endpoint("VILA_S3_ENDPOINT", found.endpoint)
        if not re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", region, re.IGNORECASE):
            raise UserError(f"AWS_REGION={region}: is not the name of a region.")
        return found

    def credentials(self) -> Provider:
        """Return where credentials come from. Raises UserError when there are none."""
        return provider_from_environment(
            endpoint=None if self.endpoint == AWS else self.endpoint,
            region=self.region,
            http=self.http(repeat=True),
        )

    def client(self, credentials: Provider, *, repeat: bool) -> Minio:
        """Return a minio client; without `repeat` it sends no request a second time.

        Except where the first can have done nothing: no connection, or 503.
        """
        parts = urlsplit(self.endpoint)
        try:
            client = _client_class()(
                parts.netloc,
                credentials=credentials,
                region=self.region,
                secure=parts.scheme == "https",
                http_client=self.http(repeat=repeat),
            )
        except ValueError as error:  # a host of AWS that is none
            raise UserError(f"VILA_S3_ENDPOINT={self.endpoint}: {error}.") from None
        if self.virtual_hosts:
            client.enable_virtual_style_endpoint()
        return client

    def http(self, *, repeat: bool) -> PoolManager:
        """Return a pool of connections with the timeouts, the certificates and the retries."""
        from urllib3 import PoolManager, Retry, Timeout

        # A store that is not there should be told within seconds, not minutes.
        codes = [500, 502, 503, 504] if repeat else [503]
        retry = Retry(
            total=3, read=None if repeat else 0, backoff_factor=0.2, status_forcelist=codes
        )
        return PoolManager(
            timeout=Timeout(connect=5, read=self.timeout_s),
            maxsize=max(10, self.parallel + 2),
            retries=retry,
            ca_certs=self.ca,
        )

    def write_headers(self) -> dict[str, str]:
        """Return the headers that have the server encrypt what is written."""
        if self.encryption is None:
            return {}
        kind, _, key = self.encryption.partition(":")
        if kind == "sse-s3":
            return {"X-Amz-Server-Side-Encryption": "AES256"}
        headers = {"X-Amz-Server-Side-Encryption": "aws:kms"}
        return {**headers, "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": key} if key else headers


BULK = 2**20
"""From this size on a body is covered by the signature through its MD5 alone."""


def _client_class() -> type[Minio]:
    """Return minio's client, which does over HTTP what it does over TLS anyway.

    It signs the sha256 of each body there, one more pass on both sides. The headers that are signed
    hold the body's MD5 already, which the server checks.
    """
    from minio import Minio

    class Client(Minio):
        def _build_headers(
            self, host: str, headers: Any = None, body: Any = None, creds: Any = None
        ) -> Any:
            bulk = body and creds and len(body) >= BULK and "Content-MD5" in (headers or {})
            made, date = super()._build_headers(host, headers, None if bulk else body, creds)
            if bulk:
                made["Content-Length"] = str(len(body))
                made["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
            return made, date

    return Client


@dataclass(frozen=True)
class Place:
    """An object, whether it exists or not, and how it is reached. `uri` is for messages.

    `once` must not repeat a request; `client` may.
    """

    client: Minio
    once: Minio
    settings: S3Settings
    bucket: str
    name: str
    uri: str


def check_bucket(bucket: str) -> None:
    """Raise UserError for what can't be the name of a bucket."""
    if not _BUCKET.fullmatch(bucket):
        raise UserError(
            f"s3://{bucket}: is not the name of a bucket; fix: 3 to 63 small letters, digits, dots "
            "and hyphens."
        )


def _parse_endpoint(name: str, text: str) -> SplitResult:
    parts = urlsplit(text)
    usable = parts.scheme in ("http", "https") and parts.netloc and "@" not in parts.netloc
    try:
        _ = parts.port
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or parts.query or parts.fragment:
        raise UserError(
            f"{name}={text}: is not an endpoint; "
            "fix: a URL without path, such as http://minio:9000."
        )
    return parts


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{name}={text}: is not a number of seconds above zero.")
    return seconds


def _count(name: str, default: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise UserError(f"{name}={text}: is not a number from 1 to {most}.")
    return int(text)


def _one_of(name: str, known: Iterable[str]) -> str | None:
    text = os.environ.get(name) or None
    if text is not None and text not in known:
        raise UserError(f"{name}={text}: is not one of {', '.join(known)}.")
    return text


def _encryption() -> str | None:
    text = os.environ.get("VILA_S3_ENCRYPTION") or None
    if text is None or re.fullmatch(r"sse-s3|sse-kms(:[!-~]+)?", text):
        return text
    reason = "is not a kind of encryption"
    if text.lower().startswith("sse-c"):
        reason = "is not supported: whoever loses the customer's key loses the store"
    raise UserError(f"VILA_S3_ENCRYPTION={text}: {reason}; fix: sse-s3, sse-kms or sse-kms:KEY.")


def _certificates() -> str | None:
    """Return the file of certificates to trust; None is the system's."""
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        text = os.environ.get(name)
        if not text:
            continue
        try:
            ssl.create_default_context().load_verify_locations(cafile=text)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{name}={text}: is no file of PEM certificates: {reason}.") from None
        return text
    system = ssl.get_default_verify_paths()
    if system.cafile or (system.capath and any(Path(system.capath).iterdir())):
        return None
    import certifi  # a slim image may have no certificates of its own

    return certifi.where()
