"""The HTTP side: requests, faults to order, tokens; answers come from `kube` and `kfp`."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.api_server.answers import Answer, Request, failure
from tests.api_server.kfp import Kfp
from tests.api_server.kube import Kube
from tests.local_http import Handler, served

_PROXY = re.compile(r"/api/v1/namespaces/[^/]+/services/[^/]+/proxy(/.*)?")


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match."""

    method: str
    path: re.Pattern[str]
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False  # the connection ends without an answer
    after: bool = False  # ... once the request has been carried out
    message: str = "ordered"


@dataclass
class ApiServer:
    """The server's state; change it while it runs."""

    kube: Kube = field(default_factory=Kube)
    kfp: Kfp = field(default_factory=Kfp)
    tokens: set[str] = field(default_factory=lambda: {"good-token"})
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    url: str = ""

    def fail(
        self,
        method: str,
        path: str,
        *,
        times: int = 1,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        delay: float = 0.0,
        cut: bool = False,
        after: bool = False,
        message: str = "ordered",
    ) -> None:
        """Let the next `times` requests whose path (with query) matches go wrong, or wait."""
        self.faults.append(
            Fault(
                method, re.compile(path), times, status, headers or {}, delay, cut, after, message
            )
        )

    def deny(self, verb: str, resource: str) -> None:
        """Take a right away: get, list, watch, create, update, patch, delete; "pods/log" too."""
        self.kube.denied.add((verb, resource))

    def kubeconfig(self, path: Path, *, context: str = "test", token: str = "good-token") -> Path:
        """Write a kubeconfig whose current context reaches this server."""
        named = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": context, "cluster": {"server": self.url}}],
            "users": [{"name": context, "user": {"token": token}}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        }
        path.write_text(yaml.safe_dump(named), encoding="utf-8")
        return path

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request that nothing went wrong with."""
        if request.token not in self.tokens:
            return failure(401, "Unauthorized", "Unauthorized")
        if proxied := _PROXY.fullmatch(request.path):
            request.path = proxied[1] or "/"
            return self.kfp.answer(request)
        if request.path.startswith("/apis/v2beta1"):
            return self.kfp.answer(request)
        return self.kube.answer(request)

    def fault(self, method: str, path: str) -> Fault | None:
        """Return what goes wrong with this request, and count it."""
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.path.search(path):
                fault.times -= 1
                return fault
        return None


@contextlib.contextmanager
def running() -> Iterator[ApiServer]:
    """Serve on 127.0.0.1 until the end of the block."""
    state = ApiServer()
    with served(_handler(state)) as state.url:
        try:
            yield state
        finally:
            state.kube.close()


def _handler(state: ApiServer) -> type[Handler]:
    class Answering(Handler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else head and body come 40 ms apart

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            parts = urlsplit(self.path)
            request = Request(
                method=self.command,
                path=parts.path,
                query={name: values[-1] for name, values in parse_qs(parts.query).items()},
                body=self.rfile.read(length),
                content_type=self.headers.get("Content-Type", ""),
                token=self.headers.get("Authorization", "").removeprefix("Bearer "),
            )
            state.requests.append((self.command, self.path))
            fault = state.fault(self.command, self.path)
            if fault is not None:
                time.sleep(fault.delay)
                if fault.after:
                    state.answer(request)
                if fault.cut:
                    self.close_connection = True
                    return
                if fault.status is not None:
                    told = failure(
                        fault.status, _REASONS.get(fault.status, "Unknown"), fault.message
                    )
                    told.headers.update(fault.headers)
                    return self.send(told)
            self.send(state.answer(request))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

        def send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.lines is None:
                data = _encoded(answer.body)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in answer.lines:
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    return Answering


def _encoded(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return json.dumps(body).encode()


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
