"""One step towards an image: its owner's robots.txt, then one request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from vila_core.data.download import robots
from vila_core.data.download.address import Address
from vila_core.data.download.http import Answer, Http
from vila_core.data.download.reasons import Failure
from vila_core.data.download.settings import DownloadConfig

MAX_REDIRECTS = 5
_KEPT_HOSTS = 50_000
_KEPT_S = 24 * 3600.0
"""RFC 9309 wants a robots.txt used no longer than a day."""
_OF_THE_HOST = frozenset(
    {"no such host", "private address", "certificate", "unreachable", "timeout"}
)
"""What a request for the image itself would have met as well."""


@dataclass
class _Entry:
    lock: threading.Lock
    rules: robots.Rules | None = None
    failure: Failure | None = None
    until: float = 0.0


class Fetcher:
    """Asks for images where their hosts allow it. Threads share one."""

    def __init__(self, config: DownloadConfig, http: Http) -> None:
        self._config, self._http = config, http
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, _Entry] = OrderedDict()

    def step(self, address: Address) -> Answer:
        """Return the image, or where it has moved to. Raises Failure."""
        if not self._rules(address).allow(address.target):
            raise Failure("robots.txt", "disallowed")
        return self._http.get(address, limit=self._config.max_bytes)

    def delay_s(self, address: Address) -> float:
        """Return the pause between requests that the host's robots.txt asks for, if it was read."""
        with self._lock:
            entry = self._hosts.get(address.origin)
        return min(entry.rules.delay_s, 3600.0) if entry and entry.rules else 0.0

    def _rules(self, address: Address) -> robots.Rules:
        with self._lock:
            entry = self._hosts.setdefault(address.origin, _Entry(threading.Lock()))
            self._hosts.move_to_end(address.origin)
            if len(self._hosts) > _KEPT_HOSTS:
                self._hosts.popitem(last=False)
        with entry.lock:  # the first one asks, the others wait for what it learns
            if time.monotonic() >= entry.until:
                entry.rules, entry.failure = None, None
                try:
                    entry.rules = self._ask(address)
                    entry.until = time.monotonic() + _KEPT_S
                except Failure as failure:
                    entry.failure = failure
                    entry.until = time.monotonic() + self._config.backoff_s / 2
            if entry.rules is None:
                assert entry.failure is not None
                found = entry.failure
                raise Failure(found.reason, found.detail, found.wait_s, found.again)
            return entry.rules

    def _ask(self, address: Address) -> robots.Rules:
        """Return what the host allows. Raises Failure when it doesn't answer: that is a no."""
        place = Address(address.scheme, address.host, address.port, "/robots.txt")
        for _ in range(1 + MAX_REDIRECTS):
            try:
                answer = self._http.get(place, limit=robots.MAX_BYTES, cut=True, use=False)
            except Failure as failure:
                if failure.reason == "refused":
                    return robots.Rules()  # there is none: all is allowed
                if failure.reason in _OF_THE_HOST and place.origin == address.origin:
                    raise
                wait, again = failure.wait_s, failure.again
                raise Failure("robots.txt unreachable", failure.message, wait, again) from None
            if answer.moved is None:
                return robots.parse(answer.data)
            place = answer.moved
        return robots.Rules()  # RFC 9309: lost in redirects counts as none
