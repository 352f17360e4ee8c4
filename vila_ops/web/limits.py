"""How often a client or a viewer may ask: token buckets, and who the client is behind proxies."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request

from vila_core.errors import UserError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MOST_KEPT = 10_000
"""Buckets in memory, about 2 MB: the ones that were not asked for longest go first."""


class Limit(NamedTuple):
    """So many at once, and so many a second from then on."""

    burst: float
    per_second: float


LOGINS = Limit(10, 0.1)
"""Tries to log in, and requests with a token that is none."""
WRITES = Limit(30, 0.5)
READS = Limit(300, 30.0)


@dataclass
class _Bucket:
    left: float
    at: float
    refused: bool = False


class Refusal(NamedTuple):
    """Come back in `seconds`; `first` of a row of refusals, the one that is worth telling."""

    seconds: float
    first: bool


class Buckets:
    """One bucket for each asker. Of one event loop: no locks."""

    def __init__(
        self, limit: Limit, most: int = MOST_KEPT, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Every bucket starts full."""
        self._limit = limit
        self._most = most
        self._now = now
        self._kept: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, who: str) -> Refusal | None:
        """Take one from a bucket; None where there was one."""
        now, limit = self._now(), self._limit
        bucket = self._kept.setdefault(who, _Bucket(limit.burst, now))
        self._kept.move_to_end(who)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        bucket.left = min(limit.burst, bucket.left + (now - bucket.at) * limit.per_second)
        bucket.at = now
        if bucket.left >= 1:
            bucket.left -= 1
            bucket.refused = False
            return None
        first, bucket.refused = not bucket.refused, True
        return Refusal((1 - bucket.left) / limit.per_second, first)

    def __len__(self) -> int:
        return len(self._kept)


def proxies_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks of trusted proxies. Raises UserError for what is no network."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            raise UserError(
                f"--proxy {text!r}: is no address or network; write one such as 10.0.0.0/8"
            ) from None
    return tuple(found)


def client_of(request: Request, proxies: Sequence[Network]) -> str:
    """Return the address that a request came from.

    X-Forwarded-For is believed as far as trusted proxies wrote it: from its right end, each of
    them names who asked it. Without one, it is anybody's text.
    """
    peer = request.client.host if request.client else ""
    if not proxies or not _within(peer, proxies):
        return peer or "unknown"
    for one in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")):
        if _address(one.strip()) is None:
            break
        peer = one.strip()
        if not _within(peer, proxies):
            break
    return peer


def same_client(address: str) -> str:
    """Return what a client is counted by: of IPv6 the /64, as one machine has all of it."""
    found = _address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address


def _within(text: str, proxies: Sequence[Network]) -> bool:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address is not None and any(address in network for network in proxies)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
