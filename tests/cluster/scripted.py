"""An HTTP server whose answers a test writes down one by one, for what a client makes of them."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from components.kube.client import Patience, client
from tests.local_http import Handler, served

QUICK = Patience(connect_s=2, read_s=2, tries=3, first_wait_s=0.01, most_wait_s=0.05)


@dataclass
class Answer:
    """One answer. `pieces` are sent as chunks; `cut` closes the connection without the end."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] | None = None
    cut: bool = False
    wait: Callable[[], object] | None = None
    secret: bytes = b""  # a body that is no text


@dataclass
class Script:
    """The answers to come, and what was asked so far: (method, path with query, body)."""

    answers: list[Answer]
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    url: str = ""

    def api(self, patience: Patience = QUICK) -> Any:
        """Return a client of this server."""
        from kubernetes.client import Configuration

        configuration = Configuration()
        configuration.host = self.url
        return client(configuration, f"{self.url} (context test)", patience)


def status(code: int, reason: str, message: str, **details: str) -> Answer:
    """Return an answer as the API refuses."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return Answer(code, {**body, "reason": reason, "message": message, "details": details})


@contextlib.contextmanager
def running(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Script]:
    """Serve the answers in order."""
    script = Script(list(answers))

    class Answering(Handler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            script.asked.append((self.command, self.path, body.decode(errors="replace")))
            script.raw.append(body)
            answer = script.answers.pop(0)
            if answer.wait:
                answer.wait()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.pieces is not None:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in answer.pieces:
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    self.wfile.flush()
                if not answer.cut:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                data = answer.secret or text.encode()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if answer.cut else data)
            if answer.cut:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = do_PUT = _serve

    with served(Answering, tls, quiet=True) as script.url:
        yield script
