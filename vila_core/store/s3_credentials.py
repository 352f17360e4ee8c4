"""Where the keys of an S3 store come from, and how short-lived ones are renewed in time.

The first that is set: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a service account's token by STS
(AWS_WEB_IDENTITY_TOKEN_FILE); a profile of the credentials file; the agent of a container
(AWS_CONTAINER_CREDENTIALS_…); the machine's own role, at AWS only.
"""

from __future__ import annotations

import configparser
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

from vila_core.errors import StoreError, Unreachable, UserError, VilaError

if TYPE_CHECKING:
    from minio.credentials.credentials import Credentials
    from minio.credentials.providers import Provider
    from urllib3 import PoolManager

MARGIN_S = 300.0
"""Keys are renewed when this many seconds are left, or a fifth of their life if that is less."""

_AGAIN_S = 15.0
_FIX = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
    "or AWS_WEB_IDENTITY_TOKEN_FILE"
)


def provider_from_environment(*, endpoint: str | None, region: str, http: PoolManager) -> Provider:
    """Return the provider of minio's client that the environment asks for.

    `endpoint` is the S3 server, None for AWS. Raises UserError where nothing is set.
    """
    from minio.credentials.providers import StaticProvider

    key, secret = (os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    if key and secret:
        return StaticProvider(key, secret, os.environ.get("AWS_SESSION_TOKEN") or None)
    if key or secret:
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        raise UserError(f"the S3 store needs credentials; fix: set {missing}.")
    token = os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if token:
        fetch = web_identity(Path(token), sts_endpoint(endpoint, region), http)
        return cast("Provider", Renewing(fetch))
    file, profile = _credentials_file(), os.environ.get("AWS_PROFILE")
    if profile or os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or _has_default(file):
        return cast("Provider", Profile(file, profile or "default"))
    agent = any(
        os.environ.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI") for kind in ("FULL", "RELATIVE")
    )
    machine = endpoint is None and os.environ.get("AWS_EC2_METADATA_DISABLED") != "true"
    if agent or machine:
        return cast("Provider", Renewing(_from_agent(at_once=not agent)))
    raise UserError(f"the S3 store needs credentials; fix: {_FIX}.")


def sts_endpoint(endpoint: str | None, region: str) -> str:
    """Return where tokens are exchanged: VILA_S3_STS_ENDPOINT, the S3 server itself, or AWS's.

    MinIO answers for both on one address. Raises UserError for what is no URL.
    """
    text = os.environ.get("VILA_S3_STS_ENDPOINT") or endpoint
    if text is None:
        return f"https://sts.{region}.amazonaws.com"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
        raise UserError(
            f"VILA_S3_STS_ENDPOINT={text}: is not an endpoint; fix: a URL such as https://minio:9000."
        )
    return text


class Renewing:
    """A provider of minio's client that calls `fetch` again before the keys expire.

    Long trainings outlive their keys. While old ones are still good, a failure to renew is borne
    and tried again; without good ones it is raised.
    """

    def __init__(self, fetch: Callable[[], Credentials]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._keys: Credentials | None = None
        self._renew_at = self._expires_at = 0.0

    def retrieve(self) -> Credentials:
        """Return keys that are good for a while. Raises VilaError."""
        with self._lock:
            now = time.time()
            if self._keys is not None and now < self._renew_at:
                return self._keys
            try:
                keys = self._fetch()
            except VilaError:
                if self._keys is None or now >= self._expires_at:
                    raise
                self._renew_at = now + _AGAIN_S
                return self._keys
            self._keys = keys
            self._expires_at = self._renew_at = float("inf")
            if keys.expiration is not None:
                self._expires_at = keys.expiration.replace(tzinfo=UTC).timestamp()
                life = max(0.0, self._expires_at - now)
                self._renew_at = self._expires_at - min(MARGIN_S, life / 5)
            return keys


class Profile:
    """A provider of the keys in a profile of a credentials file, read again when it changes."""

    def __init__(self, file: Path, name: str) -> None:
        self._file, self._name = file, name
        self._version = _version(file)
        self._keys = _read_profile(file, name)

    def retrieve(self) -> Credentials:
        """Return the keys. Raises UserError for a file that has become unusable."""
        version = _version(self._file)
        if version not in (None, self._version):
            self._keys, self._version = _read_profile(self._file, self._name), version
        return self._keys


def web_identity(token_file: Path, endpoint: str, http: PoolManager) -> Callable[[], Credentials]:
    """Return a function that exchanges the token in a file for keys (AssumeRoleWithWebIdentity).

    The file is read each time: Kubernetes puts a new token there before the old one expires. The
    token travels in the body, never in a URL, which servers log. Raises UserError where the file
    can't be read, StoreError for a refusal, Unreachable.
    """

    def fetch() -> Credentials:
        from urllib3.exceptions import HTTPError

        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise UserError(f"AWS_WEB_IDENTITY_TOKEN_FILE={token_file}: {reason}.") from None
        asked = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "WebIdentityToken": token,
            "RoleSessionName": os.environ.get("AWS_ROLE_SESSION_NAME") or "vila",
        }
        if role := os.environ.get("AWS_ROLE_ARN"):
            asked["RoleArn"] = role
        try:
            answer = http.request(
                "POST",
                endpoint,
                body=urlencode(asked),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                retries=http.connection_pool_kw["retries"].new(allowed_methods=None),
            )
        except HTTPError as error:
            raise Unreachable(
                f"{endpoint}: the token service does not answer ({type(error).__name__}); "
                "fix: check VILA_S3_STS_ENDPOINT and the network."
            ) from None
        if answer.status != 200:
            raise _refused(endpoint, token_file, answer.status, answer.data)
        return _parse(endpoint, answer.data)

    return fetch


def _refused(endpoint: str, token_file: Path, status: int, body: bytes) -> StoreError:
    code = message = ""
    try:
        root = ElementTree.fromstring(body)
        code, message = (root.findtext(f".//{{*}}{name}") or "" for name in ("Code", "Message"))
    except ElementTree.ParseError:
        pass
    fixes = {
        "ExpiredToken": f"a token in {token_file} that is still valid",
        "ExpiredTokenException": f"a token in {token_file} that is still valid",
        "InvalidIdentityToken": "a token that the server's identity provider has issued for it",
    }
    fix = fixes.get(code, "check AWS_ROLE_ARN, the role's trust in this service account, the token")
    told = f"{code}: {message}" if code else f"HTTP status {status}"
    return StoreError(f"{endpoint}: gives no keys for the service account ({told}); fix: {fix}.")


def _parse(endpoint: str, body: bytes) -> Credentials:
    from minio.credentials.credentials import Credentials
    from minio.time import from_iso8601utc

    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    try:
        root = ElementTree.fromstring(body)
        key, secret, session, expires = (root.findtext(f".//{{*}}{name}") or "" for name in names)
        return Credentials(key, secret, session or None, from_iso8601utc(expires or None))
    except (ElementTree.ParseError, ValueError):
        raise StoreError(
            f"{endpoint}: its answer holds no keys; fix: VILA_S3_STS_ENDPOINT must be a token "
            "service (STS)."
        ) from None


def _from_agent(*, at_once: bool) -> Callable[[], Credentials]:
    """Return a function that asks the agent of a container, or the machine, for a role's keys."""
    from urllib3 import PoolManager, Retry, Timeout

    # A machine outside AWS has nothing at that address: it must not be waited for.
    http = PoolManager(timeout=Timeout(1 if at_once else 5), retries=Retry(0 if at_once else 3))

    def fetch() -> Credentials:
        from minio.credentials.providers import IamAwsProvider
        from urllib3.exceptions import HTTPError

        try:
            return IamAwsProvider(http_client=http).retrieve()
        except (HTTPError, ValueError, KeyError, OSError):
            if at_once:
                raise UserError(f"the S3 store needs credentials; fix: {_FIX}.") from None
            raise Unreachable(
                "the agent that AWS_CONTAINER_CREDENTIALS_… names gives no keys; "
                "fix: check the pod's identity."
            ) from None

    return fetch


def _version(file: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written or replaced, None while it isn't there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _read_profile(file: Path, profile: str) -> Credentials:
    from minio.credentials.credentials import Credentials

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text())
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}; fix: {_FIX}.") from None
    except (configparser.Error, UnicodeDecodeError):
        raise UserError(f"{file}: is not a file of AWS credentials.") from None
    if not parser.has_section(profile):
        known = ", ".join(parser.sections()) or "none"
        raise UserError(f"{file}: has no profile '{profile}' (AWS_PROFILE); it has: {known}.")
    found = parser[profile]
    for name in ("aws_access_key_id", "aws_secret_access_key"):
        if not found.get(name):
            raise UserError(f"{file}: profile '{profile}' has no {name}.")
    return Credentials(
        found["aws_access_key_id"],
        found["aws_secret_access_key"],
        found.get("aws_session_token"),
    )


def _credentials_file() -> Path:
    text = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    return Path(text).expanduser() if text else Path.home() / ".aws" / "credentials"


def _has_default(file: Path) -> bool:
    try:
        return "[default]" in file.read_text()
    except (OSError, UnicodeDecodeError):
        return False
