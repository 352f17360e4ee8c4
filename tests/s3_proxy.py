"""A proxy in front of an S3 server that spoils what it is told to spoil, and counts the rest.

It passes on the host that the client has signed for, so that a server which checks signatures
takes the requests for its own.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.local_http import Handler, served

ALWAYS = 10**6


@dataclass
class Proxy:
    """What went through (`"PUT /bucket/name?query"`), and what goes wrong next.

    Faults: `flip up` and `flip down` change a bit of the body, `cut down` hangs up in the middle of
    it, `drop` hangs up before the server has heard anything, `swallow` after it has done its work,
    `slow` waits a quarter of a second first.
    """

    seen: list[str] = field(default_factory=list)
    _faults: list[tuple[str, str, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    def order(self, pattern: str, fault: str, times: int = 1) -> None:
        """Have the next requests that match meet a fault."""
        self._faults.append((pattern, fault, times))

    def count(self, pattern: str) -> int:
        """Return how many requests matched."""
        return sum(bool(re.search(pattern, request)) for request in self.seen)

    def environment(self) -> dict[str, str]:
        """What makes a store go through the proxy."""
        return {"VILA_S3_ENDPOINT": f"http://127.0.0.1:{self.port}"}

    def meet(self, request: str) -> str:
        """Note a request and return its fault, "" for none."""
        with self._lock:
            self.seen.append(request)
            for number, (pattern, fault, times) in enumerate(self._faults):
                if re.search(pattern, request):
                    self._faults[number] = (pattern, fault, times - 1)
                    if times == 1:
                        del self._faults[number]
                    return fault
        return ""


@contextlib.contextmanager
def running(upstream: str) -> Iterator[Proxy]:
    """Pass requests on to the server at the URL `upstream` until the end of the block."""
    state, target = Proxy(), urlsplit(upstream).netloc

    class Forwarding(Handler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = bytearray(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            fault = state.meet(f"{self.command} {self.path}")
            if fault == "slow":
                time.sleep(0.25)
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "flip up" and body:
                body[len(body) // 2] ^= 1
            server = http.client.HTTPConnection(target, timeout=60)
            try:
                server.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    server.putheader(name, value)
                server.endheaders(bytes(body) or None)
                answer = server.getresponse()
                data = bytearray(answer.read())
            finally:
                server.close()
            if fault == "swallow":
                self.close_connection = True
                return
            if fault == "flip down" and data:
                data[len(data) // 2] ^= 1
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            told = str(len(data))
            if self.command == "HEAD":
                told = answer.getheader("Content-Length") or "0"
            self.send_header("Content-Length", told)
            self.end_headers()
            if fault == "cut down":
                data = data[: len(data) // 2]
                self.close_connection = True
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def send_response(self, code: int, message: str | None = None) -> None:
            self.send_response_only(code, message)  # the server's own Date and Server follow

    with served(Forwarding, quiet=True) as url:  # clients are killed while they are served
        state.port = int(url.rpartition(":")[2])
        yield state
