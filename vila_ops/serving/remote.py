"""Images by address: refused, or asked for at the hosts that the server's owner named."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Sequence

from vila_core import __version__
from vila_core.data.download.address import Address, parse
from vila_core.data.download.http import Http
from vila_core.data.download.reasons import Failure
from vila_core.data.download.settings import DownloadConfig
from vila_core.errors import UserError
from vila_ops.serving.limits import Limits
from vila_ops.serving.pictures import bad

REDIRECTS = 3
SILENT_S, DEADLINE_S = 5.0, 15.0
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|[0-9A-Fa-f:.]{2,45}")


class _Settings(DownloadConfig):
    def user_agent(self) -> str:
        """Return how requests name themselves: they show an image, they don't collect it."""
        return f"vila-serve/{__version__}"


def refuse(url: str, where: str) -> bytes:
    """Refuse an address: no host is allowed."""
    raise bad(
        where,
        "addresses are not fetched by this server; send the image itself as a data URL "
        "(data:image/png;base64,…)",
    )


class Remote:
    """Fetches images of some hosts. Threads may share it.

    Connections go to public addresses alone, unless a network is named; redirects are followed to
    allowed hosts only; size and time are bounded. Raises UserError for a host or network that is
    none.
    """

    def __init__(self, hosts: Sequence[str], networks: Sequence[str], limits: Limits) -> None:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise UserError(
                    f"--allow-image-urls {host}: a host is needed: images.example.org, or "
                    "*.example.org for all below it"
                )
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise UserError(f"--allow-image-network {network}: {error}") from None
        self._hosts = [host.lower() for host in hosts]
        self._limit = limits.image_bytes
        self._http = Http(
            _Settings(
                format="coyo",
                path="none",
                timeout_s=SILENT_S,
                deadline_s=DEADLINE_S,
                allow_private=tuple(networks),
            )
        )

    def __call__(self, url: str, where: str) -> bytes:
        """Return an image file's content. Raises ApiError."""
        try:
            address = parse(url)
            for _ in range(1 + REDIRECTS):
                self._check(address, where)
                answer = self._http.get(address, limit=self._limit, use=False)
                if answer.moved is None:
                    return answer.data
                address = answer.moved
        except Failure as failure:
            raise bad(where, f"its address gave no image: {failure.message}") from None
        raise bad(where, f"its address redirects more than {REDIRECTS} times")

    def _check(self, address: Address, where: str) -> None:
        host = address.host.lower().rstrip(".")
        if not any(_matches(host, pattern) for pattern in self._hosts):
            raise bad(
                where,
                f"images of the host '{host}' are not fetched by this server; "
                f"allowed: {', '.join(self._hosts)}",
            )


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return fnmatch.fnmatchcase(host, pattern)
    return host == pattern
