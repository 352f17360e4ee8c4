"""Connections that reach public addresses only, and end in time whatever the server does.

A host's addresses are looked at where the connection is made, so that neither a redirect nor a name
server that changes its answer leads into the own network.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from vila_core.data.download.reasons import Failure
from vila_core.data.download.settings import DownloadConfig
from vila_core.errors import UserError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOOK_S = 0.2


def is_public(address: Address) -> bool:
    """Return whether an address is one of the open internet, also by the IPv4 address inside it."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inside.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(one is not None and not is_public(one) for one in inside):
            return False
        if address.ipv4_mapped:
            return True
    return address.is_global and not address.is_multicast


class Deadlines:
    """Shuts the connections of requests down that take too long as a whole.

    A timeout of a socket starts anew with each byte; a server that sends one a second would hold a
    thread for days.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[int, float] = {}  # by thread
        self._sockets: dict[int, socket.socket] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Give what the calling thread does inside so many seconds."""
        me = threading.get_ident()
        with self._lock:
            self._ends[me] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._ends.pop(me, None)
                self._drop(me)

    def over(self) -> bool:
        """Return whether the calling thread's time is up."""
        return time.monotonic() >= self._ends.get(threading.get_ident(), float("inf"))

    def uses(self, descriptor: int) -> None:
        """Note which socket the calling thread waits for now.

        It is kept by a second descriptor: TLS and `Connection: close` take the first one away.
        """
        guard = socket.socket(fileno=os.dup(descriptor))
        me = threading.get_ident()
        with self._lock:
            self._drop(me)
            self._sockets[me] = guard

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            now = time.monotonic()
            with self._lock:
                late = [me for me, end in self._ends.items() if end <= now]
                for me in late:
                    with contextlib.suppress(OSError, KeyError):
                        self._sockets[me].shutdown(socket.SHUT_RDWR)

    def _drop(self, me: int) -> None:
        guard = self._sockets.pop(me, None)
        if guard is not None:
            guard.close()


class _Guarded:
    """What both kinds of connection do differently from urllib3's."""

    _dns_host: str
    host: str
    port: int
    timeout: Any
    allowed: Sequence[Network]
    deadlines: Deadlines
    sock: socket.socket | None

    def _new_conn(self) -> socket.socket:
        last: OSError | None = None
        for family, address in _reachable(self._dns_host, self.port, self.allowed):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(self.timeout)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                last = error
                if self.deadlines.over():
                    break
                continue
            self.deadlines.uses(sock.fileno())
            return sock
        assert last is not None
        raise last

    def request(self, *arguments: Any, **named: Any) -> None:
        """Send a request, under the thread's deadline."""
        if self.sock is not None:
            self.deadlines.uses(self.sock.fileno())
        super().request(*arguments, **named)  # type: ignore[misc]


def _reachable(
    host: str, port: int, allowed: Sequence[Network]
) -> Sequence[tuple[socket.AddressFamily, Any]]:
    """Return where to connect. Raises Failure when the host has no address that may be asked."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        reason = "unreachable" if error.errno == socket.EAI_AGAIN else "no such host"
        raise Failure(reason, f"{host}: {error.strerror}") from None
    except (UnicodeError, ValueError):
        raise Failure("bad address", f"{host[:100]!r} is no host name") from None
    good = []
    for family, _, _, _, address in found:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        if is_public(ip) or any(ip.version == one.version and ip in one for one in allowed):
            good.append((family, address))
    if not good:
        raise Failure("private address", host)
    return good


def make_pools(config: DownloadConfig, deadlines: Deadlines) -> urllib3.PoolManager:
    """Return pools of checked connections that verify certificates. Raises UserError."""
    networks = tuple(ipaddress.ip_network(one) for one in config.allow_private)
    shared = {"allowed": networks, "deadlines": deadlines}
    plain = type("PlainConnection", (_Guarded, HTTPConnection), shared)
    secure = type("SecureConnection", (_Guarded, HTTPSConnection), shared)
    pools = urllib3.PoolManager(
        num_pools=2 * config.threads,
        maxsize=config.per_host,
        ssl_context=_trust(config.ca_bundle),
        retries=False,
        timeout=urllib3.Timeout(connect=config.timeout_s, read=config.timeout_s),
        headers={"User-Agent": config.user_agent(), "Accept-Encoding": "identity"},
    )
    pools.pool_classes_by_scheme = {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
    return pools


def _trust(bundle: str | None) -> ssl.SSLContext:
    try:
        path = str(Path(bundle).expanduser()) if bundle else None
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"ca_bundle: {bundle}: no certificates in PEM form: {error}") from None
