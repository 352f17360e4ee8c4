"""What goes wrong with an S3 server, told with the fix; and trying again where that may help."""

from __future__ import annotations

import contextlib
import http.client
import random
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar
from xml.etree.ElementTree import ParseError

from vila_core.errors import Conflict, Damaged, NotFound, StoreError, Unreachable, VilaError

if TYPE_CHECKING:
    from minio.error import S3Error

ResultT = TypeVar("ResultT")

MISSING = ("NoSuchKey", "NoSuchObject", "ResourceNotFound")
LOST = ("PreconditionFailed", "ConditionalRequestConflict")
PASSING = (
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServerNotInitialized",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "XMinioServerNotInitialized",
)
"""A moment later it may be well."""

DAMAGED = ("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch")
"""The server has noticed that it got something else than was sent."""

_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
_RIGHTS = {
    "read": "read there (s3:GetObject, and s3:ListBucket, without which what is missing looks so)",
    "written": "write there (s3:PutObject): the bucket, or the prefix, is read-only for them",
    "removed": "delete there (s3:DeleteObject)",
    "listed": "list there (s3:ListBucket)",
}
_FIXES = {
    "NoSuchBucket": "there is no such bucket; create it, or use another one",
    "AllAccessDisabled": "the bucket is closed to everybody; ask whoever runs the server",
    "InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; fix: new keys (AWS_SESSION_TOKEN with them)",
    "InvalidToken": "the session token is not one of these keys; check AWS_SESSION_TOKEN",
    "XMinioStorageFull": "no space left in the store; free some or use another one",
    "QuotaExceeded": "the bucket's quota is used up; free some space or raise it",
    "NotImplemented": "the server lacks something that a store needs (conditional writes, "
    "multipart uploads, the encryption of VILA_S3_ENCRYPTION); use a server that has it",
    "KMSNotConfigured": "the server has no key service; configure one, or unset VILA_S3_ENCRYPTION",
}
_SAME = {
    "ExpiredTokenException": "ExpiredToken",
    "TokenRefreshRequired": "ExpiredToken",
    "InvalidTokenId": "InvalidToken",
    "InvalidClientTokenId": "InvalidAccessKeyId",
    "XMinioKMSNotConfigured": "KMSNotConfigured",
}
_REGION = (
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraintException",
)


class BrokenOff(Unreachable):
    """The answer ended before its announced length."""


class OutOfRange(StoreError):
    """The object has no such bytes; an empty one has none at all."""


class DamagedOnTheWay(Damaged):
    """The server got other bytes than were sent: sending again may help."""


class UploadGone(StoreError):
    """An upload in parts is no longer there, or holds other parts: some process ended it."""


_KINDS: dict[type[StoreError], tuple[str, ...]] = {
    Unreachable: PASSING,
    DamagedOnTheWay: DAMAGED,
    UploadGone: ("InvalidPart", "InvalidPartOrder", "NoSuchUpload"),
    OutOfRange: ("InvalidRange",),
}


@contextlib.contextmanager
def explained(place: str, verb: str, *, racing: bool = False) -> Iterator[None]:
    """Turn errors of the server, the network and the local disk into StoreErrors.

    `place` is the address of the key, `verb` a key of `_RIGHTS`. In a race (`racing`) the loser is
    told Conflict.
    """
    from minio.error import InvalidResponseError, MinioException, S3Error
    from urllib3.exceptions import HTTPError

    failed = f"{place}: can't be {verb}"
    try:
        yield
    except S3Error as error:
        code = error.code or ""
        if code in MISSING:
            raise NotFound(f"{place}: there is no such key.") from None
        # Ceph's RGW (16.2) answers UnknownError to the loser of a race: it has written nothing.
        if code in LOST or (racing and code == "UnknownError"):
            raise Conflict(f"{place}: was changed by somebody else; read it again.") from None
        kind = next((kind for kind, codes in _KINDS.items() if code in codes), StoreError)
        raise kind(f"{failed}: {_reason(error, verb)}.") from error
    except InvalidResponseError as error:
        kind = Unreachable if error._code >= 500 else StoreError
        raise kind(
            f"{failed}: what answers is no S3 server ({_first_line(error)}); "
            "fix: check VILA_S3_ENDPOINT, and proxies on the way."
        ) from error
    except (MinioException, HTTPError) as error:
        if any(isinstance(cause, http.client.IncompleteRead) for cause in (error, *error.args)):
            raise BrokenOff(
                f"{failed}: the answer broke off before its announced length."
            ) from error
        if (reason := _tls_reason(error)) is not None:
            raise StoreError(f"{failed}: {reason}.") from error
        raise Unreachable(
            f"{failed}: the server does not answer ({type(error).__name__}); "
            "fix: check VILA_S3_ENDPOINT and the network."
        ) from error
    except ParseError as error:
        raise StoreError(
            f"{failed}: what answers is no S3 server (no XML); fix: check VILA_S3_ENDPOINT."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{failed}: {error.filename}: {reason}.") from error


def persistently(
    call: Callable[[], ResultT], *, patience_s: float, stopped: Callable[[], bool] = lambda: False
) -> ResultT:
    """Call until it succeeds: again after Unreachable, with pauses that double up to 8 seconds.

    Three times at least, and on until `patience_s` seconds have passed since the first failure; not
    when `stopped` says that nobody needs it any more.
    """
    attempt, since = 0, None
    while True:
        attempt += 1
        try:
            return call()
        except Unreachable:
            now = time.monotonic()
            since = now if since is None else since
            if stopped() or (attempt >= 3 and now - since >= patience_s):
                raise
        # Not all at the same moment: many wait for the same server.
        time.sleep(min(8.0, 0.2 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))
        if stopped():
            raise VilaError("stopped")


def _reason(error: S3Error, verb: str) -> str:
    code = _SAME.get(error.code or "", error.code or "")
    if code == "AccessDenied":
        return f"access denied; fix: credentials that may {_RIGHTS[verb]}"
    if code in _SKEWED:
        return f"{_skew(error)}; fix: set the clock of this machine (NTP), or the server's"
    if code in _REGION:
        region = error.response.headers.get("x-amz-bucket-region")
        where = f"AWS_REGION={region}" if region else "set AWS_REGION to the bucket's region"
        return f"the bucket is in another region; fix: {where}"
    if code.startswith("KMS.") or "Encryption" in code:
        return f"{code}: {error.message}; fix: check VILA_S3_ENCRYPTION and the key's policy"
    return _FIXES.get(code, f"{error.code}: {error.message}")


def _skew(error: S3Error) -> str:
    told = error.response.headers.get("date")
    try:
        there = parsedate_to_datetime(told or "")
    except ValueError:
        return "this machine's clock is not the server's"
    seconds = (datetime.now(UTC) - there.astimezone(UTC)).total_seconds()
    side = "ahead of" if seconds > 0 else "behind"
    return f"this machine's clock is {abs(seconds) / 60:.0f} minutes {side} the server's"


def _tls_reason(error: BaseException) -> str | None:
    """Return what is wrong with the encryption of the connection, None if nothing is."""
    from urllib3.exceptions import MaxRetryError

    cause: object = error.reason if isinstance(error, MaxRetryError) else error
    text = f"{type(cause).__name__} {cause}"
    if "CERTIFICATE_VERIFY_FAILED" in text or isinstance(cause, ssl.SSLCertVerificationError):
        return (
            "the server's certificate is not trusted; fix: AWS_CA_BUNDLE=the file of the authority "
            f"that has signed it ({_first_line(cause)})"
        )
    if "WRONG_VERSION_NUMBER" in text:
        return "the server speaks no TLS; fix: http:// in VILA_S3_ENDPOINT"
    return None


def _first_line(cause: object) -> str:
    return str(cause).split("\n", 1)[0][:200]
