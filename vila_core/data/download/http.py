"""One request at a time, bounded in every direction: no cookies, no redirects, no surprises."""

from __future__ import annotations

import datetime
import email.utils
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeout

from vila_core.data.download.address import Address, shown
from vila_core.data.download.connection import Deadlines, make_pools
from vila_core.data.download.consent import opted_out
from vila_core.data.download.reasons import Failure
from vila_core.data.download.settings import DownloadConfig

_MOVED = frozenset({301, 302, 303, 307, 308})
_PIECE = 2**16
_DRAINED = 2**14
"""So much of an answer that nobody needs is read, to keep the connection; more ends it."""


@dataclass(frozen=True)
class Answer:
    """A file, or where it has moved to."""

    data: bytes = b""
    moved: Address | None = None


class Http:
    """Asks hosts, by threads at the same time. Close it, or use it as a context manager."""

    def __init__(self, config: DownloadConfig) -> None:
        self._config = config
        self._deadlines = Deadlines()
        try:
            self._pools = make_pools(config, self._deadlines)
        except BaseException:
            self._deadlines.close()
            raise
        self._headers = dict(self._pools.headers)

    def __enter__(self) -> Http:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pools.clear()
        self._deadlines.close()

    def get(self, address: Address, *, limit: int, cut: bool = False, use: bool = True) -> Answer:
        """Return the answer to one request, of at most `limit` bytes.

        A longer one is cut there with `cut`, and a Failure without. With `use`, headers that opt
        out are one, too. Raises Failure for whatever else goes wrong.
        """
        with self._deadlines.limit(self._config.deadline_s):
            try:
                return self._get(address, limit, cut, use)
            except (HTTPError, OSError) as error:
                raise self._failure(error, address) from None

    def _get(self, address: Address, limit: int, cut: bool, use: bool) -> Answer:
        pool = self._pools.connection_from_host(address.host, address.port, address.scheme)
        response = pool.urlopen(
            "GET",
            address.target,
            headers=self._headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        done = False
        try:
            headers = response.headers
            if use and response.status < 400:
                why = opted_out(headers.getlist("X-Robots-Tag"), headers.getlist("tdm-reservation"))
                if why:
                    raise Failure("opted out", why)
            if response.status in _MOVED and "Location" in headers:
                done = _drain(response)
                return Answer(moved=address.join(_text(headers["Location"])))
            if response.status != 200:
                done = _drain(response)
                raise _refusal(response.status, headers, self._config.max_wait_s)
            try:
                data = _body(response, limit, cut)
            except (HTTPError, OSError) as error:
                failure = self._failure(error, address)
                if failure.reason != "timeout":
                    raise Failure("truncated", "the connection ended early") from None
                raise failure from None
            if self._deadlines.over():  # its connection was shut: it only looks like an end
                raise self._late()
            done = len(data) < limit
            return Answer(data)
        finally:
            if not done:
                response.close()
            response.release_conn()

    def _failure(self, error: Exception, address: Address) -> Failure:
        if self._deadlines.over():
            return self._late()
        inner = next((one for one in error.args if isinstance(one, OSError)), error)
        if isinstance(error, SSLError):
            return Failure("certificate", shown(str(error).partition(" (_ssl.c")[0]))
        if isinstance(error, HTTPTimeout) or isinstance(inner, TimeoutError):
            return Failure("timeout", f"silent for {self._config.timeout_s:g} s")
        if isinstance(error, LocationValueError):
            return Failure("bad address", address.host)
        if isinstance(error, ProtocolError) and not isinstance(inner, OSError):
            return Failure("unreachable", f"no sound HTTP: {type(inner).__name__}")
        why = inner.strerror if isinstance(inner, OSError) and inner.strerror else None
        return Failure("unreachable", f"{address.host}: {why or type(inner).__name__}")

    def _late(self) -> Failure:
        return Failure("timeout", f"not done after {self._config.deadline_s:g} s")


def _body(response: urllib3.BaseHTTPResponse, limit: int, cut: bool) -> bytes:
    unpack = _unpacker(response.headers.get("Content-Encoding", ""))
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > limit and not cut:
        raise Failure("file too large", f"{int(announced):,} bytes announced, {limit:,} allowed")
    data = bytearray()
    try:
        # read1: what is there; read would wait for all of a piece, however slowly it comes.
        while piece := response.read1(_PIECE, decode_content=False):
            while piece:
                # One byte more than allowed tells that there is more.
                room = limit + 1 - len(data)
                data += unpack.decompress(piece, room) if unpack else piece[:room]
                if len(data) > limit:
                    if cut:
                        return bytes(data[:limit])
                    raise Failure("file too large", f"more than {limit:,} bytes")
                piece = unpack.unconsumed_tail if unpack else b""
    except zlib.error:
        raise Failure("bad encoding", "the compressed body is damaged") from None
    if unpack and not unpack.eof:
        raise Failure("truncated", "the compressed body has no end")
    return bytes(data)


def _unpacker(encoding: str) -> zlib._Decompress | None:
    """Return what undoes an encoding we didn't ask for; some servers send gzip all the same."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip"):
        return zlib.decompressobj(31)
    raise Failure("bad encoding", shown(encoding))


def _drain(response: urllib3.BaseHTTPResponse) -> bool:
    """Read the rest of an answer that isn't needed; return whether that was all of it."""
    left = _DRAINED
    while left > 0:
        piece = response.read1(left, decode_content=False)
        if not piece:
            return True
        left -= len(piece)
    return False


def _refusal(status: int, headers: Mapping[str, str], max_wait_s: float) -> Failure:
    if status in (429, 503):
        wait = _retry_after(headers.get("Retry-After", ""))
        if wait > max_wait_s:
            return Failure("busy", f"HTTP {status}, for {wait:,.0f} s", again=False)
        return Failure("busy", f"HTTP {status}", wait)
    if status >= 500 or status in (408, 425):
        return Failure("server error", f"HTTP {status}")
    return Failure("refused", f"HTTP {status}")


def _retry_after(value: str) -> float:
    """Return the seconds of a Retry-After, which may be a date; 0 if it is neither."""
    value = value.strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    return max((until - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)


def _text(header: str) -> str:
    """Return a header in UTF-8, which http.client reads as Latin-1."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header
