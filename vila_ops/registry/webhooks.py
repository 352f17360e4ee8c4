"""Signed webhooks, as the Standard Webhooks specification has them (standardwebhooks.com).

The body is JSON. `webhook-id` is the digest of the history entry, the same in every try;
`webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from components.registry import HistoryEntry
from components.runtime.secrets import mask
from vila_core import __version__
from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_ops.registry.delivering import Refused, Undelivered
from vila_ops.registry.mirror_settings import Webhook

TOLERANCE_S = 300
"""How old or new a delivery's timestamp may be for `verify`."""
LONGEST_WAIT_S = 86_400.0
_LARGEST_EVIDENCE = 64 * 1024
_LONGEST_ANSWER = 64 * 1024
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_TRY_AGAIN = (408, 409, 425, 429)


def event(model: str, entry: HistoryEntry) -> dict[str, Any]:
    """Return the news of a history entry. Evidence that is very large is left out."""
    evidence = mask(dict(entry.evidence))
    if len(dumps(evidence)) > _LARGEST_EVIDENCE:
        evidence = {"passed": evidence.get("passed"), "left_out": True}
    return {
        "type": f"vila.registry.{entry.kind}",
        "timestamp": entry.when,
        "data": {
            "model": model,
            "version": entry.version,
            "name": f"{model}@{entry.version}",
            "alias": entry.alias,
            "before": entry.before,
            "seq": entry.seq,
            "entry": entry.digest(),
            "who": entry.who,
            "when": entry.when,
            "why": mask(entry.why),
            "forced": entry.forced,
            "evidence": evidence,
        },
    }


def post(target: Webhook, name: str, model: str, entry: HistoryEntry) -> dict[str, Any]:
    """Send an entry to a receiver; return its status.

    Raises Undelivered where it can't be reached or answers otherwise than 2xx; Refused where it
    said that another try is of no use; UserError for a secret that is not there.
    """
    key = secret_key(target.secret.read(f"webhooks.{name}.secret"))
    body = dumps(event(model, entry)).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"vila/{__version__}",
        **signed(key, entry.digest(), int(time.time()), body),
    }
    status, answer = _send(target, body, headers)
    if 200 <= status < 300:
        return {"status": status}
    said = f"the receiver answered {status}"
    if status in _TRY_AGAIN or status >= 500:
        raise Undelivered(said, retry_after(answer.get("retry-after")))
    if 300 <= status < 400:
        raise Refused(f"{said}: a redirect, which is not followed; configure the address it is at")
    raise Refused(said)


def secret_key(text: str) -> bytes:
    """Return the key of a secret: `whsec_` and base64, or any other text as it is.

    Raises UserError for one that is damaged or shorter than 16 bytes.
    """
    key = text.encode()
    if text.startswith("whsec_"):
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            raise UserError("the webhook's secret begins with whsec_ but is no base64") from None
    if len(key) < 16:
        raise UserError("the webhook's secret is shorter than 16 bytes; make a longer one")
    return key


def signed(key: bytes, identity: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that prove who sent a body, and when."""
    content = f"{identity}.{timestamp}.".encode() + body
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def verify(
    key: bytes, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> bool:
    """Return whether a body was sent, lately, by somebody who has the key: for receivers."""
    found = {name.lower(): value for name, value in headers.items()}
    try:
        timestamp = int(found["webhook-timestamp"])
        if abs((time.time() if now is None else now) - timestamp) > TOLERANCE_S:
            return False
        wanted = signed(key, found["webhook-id"], timestamp, body)["webhook-signature"]
        given = found["webhook-signature"].split()
    except (KeyError, ValueError):
        return False
    return any(hmac.compare_digest(wanted.encode(), one.encode()) for one in given)


def _send(
    target: Webhook, body: bytes, headers: Mapping[str, str]
) -> tuple[int, Mapping[str, str]]:
    """Return status and headers (lower case) of the answer, whole within the time limit."""
    parts = urlsplit(target.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _Connection(target)
    try:
        with connection.ended_after(target.timeout_s):
            connection.request("POST", path, body, dict(headers))
            answer = connection.getresponse()
            answer.read(_LONGEST_ANSWER)
        if connection.overdue:  # headers that are cut off read like headers that ended
            raise TimeoutError
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connection.overdue or isinstance(error, TimeoutError):
            raise Undelivered(f"no answer within {target.timeout_s:g} s") from None
        raise Undelivered(f"can't be reached: {error or type(error).__name__}") from None
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was looked at first. No proxy, no second look-up."""

    def __init__(self, target: Webhook) -> None:
        parts = urlsplit(target.url)
        host = parts.hostname or ""
        self._tls = parts.scheme == "https"
        port = parts.port or (443 if self._tls else 80)
        super().__init__(host, port, timeout=target.timeout_s)
        self._target = target
        self.overdue = False

    def connect(self) -> None:
        """Connect to the first address that is allowed and answers."""
        failure: OSError | None = None
        for address in _addresses(self._target, self.host, self.port):
            try:
                self.sock = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError as error:
                failure = error
        else:
            raise failure or OSError("it has no address")
        if self._tls:
            own = self._target.ca_file
            context = ssl.create_default_context(cafile=str(own.expanduser()) if own else None)
            self.sock = context.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()  # by now the time limit can end it

    @contextlib.contextmanager
    def ended_after(self, seconds: float) -> Iterator[None]:
        """End the connection when the time is over, also where bytes come in drips."""

        def end() -> None:
            self.overdue = True
            if self.sock is not None:
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _addresses(target: Webhook, host: str, port: int) -> list[str]:
    """Return the addresses of a host. Raises Refused for one inside of somebody's network.

    Else a name in the configuration could make this machine talk to services that trust it.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Undelivered(f"{host}: no address is known: {error}") from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    if not target.allow_private:
        for address in addresses:
            if not _is_public(address):
                raise Refused(
                    f"{host} is at {address}, which the internet does not route; fix: set "
                    "allow_private: true if that is meant"
                )
    return addresses


def _is_public(address: str) -> bool:
    """Return whether an address is one of the internet, also where one is written in another."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast


def retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; at most a day."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        return min(max(float(int(text)), 0.0), LONGEST_WAIT_S)
    with contextlib.suppress(ValueError, TypeError):
        at = email.utils.parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT_S)
    return None
