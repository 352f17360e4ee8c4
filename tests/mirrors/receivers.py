"""Servers that take webhooks: good ones, slow ones, and such as misbehave on purpose."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.local_http import Handler, served


@dataclass
class Receiver:
    """What a server was sent; `answers` are taken one by one, the last one again and again.

    An answer is a status, (status, headers), "drop" (close without a word), "drip" (a byte now and
    then, never done) or "sleep".
    """

    url: str = ""
    answers: list[Any] = field(default_factory=lambda: [200])
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sleep_s: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def seqs(self) -> list[int]:
        return [event["data"]["seq"] for event in self.events]


@contextlib.contextmanager
def receiving(*answers: Any) -> Iterator[Receiver]:
    receiver = Receiver(answers=list(answers) or [200])

    class Answering(Handler):
        def do_POST(self) -> None:
            receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.headers.append(dict(self.headers.items()))
            many = len(receiver.answers) > 1
            answer = receiver.answers.pop(0) if many else receiver.answers[0]
            time.sleep(receiver.sleep_s)
            if answer == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif answer == "sleep":
                receiver.done.wait(10)
            elif answer == "drip":
                with contextlib.suppress(OSError):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while not receiver.done.wait(0.05):
                        self.wfile.write(b"X-Drip: y\r\n")
            else:
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

    with served(Answering) as url:
        receiver.url = f"{url}/hook"
        try:
            yield receiver
        finally:
            receiver.done.set()
