"""An S3 server that misbehaves when told to: enough of GetObject to be read by a store.

Names of `faults` are object names; each takes the next faults from its list, then behaves.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.local_http import Handler, served

ALWAYS = 10**6


@dataclass
class FlakyS3:
    """What it holds, what goes wrong (fault by name), and how often each object was asked for."""

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    slow_s: float = 0.0  # a pause in the middle of each object
    port: int = 0

    def environment(self) -> dict[str, str]:
        return {
            "VILA_S3_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "tester-secret",
            "VILA_S3_TIMEOUT": "0.5",
        }


@contextlib.contextmanager
def running() -> Iterator[FlakyS3]:
    """Serve until the end of the block."""
    state = FlakyS3()

    class Answering(Handler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.split("?")[0].lstrip("/").split("/", 1)[1]
            state.asked[name] += 1
            faults = state.faults.get(name)
            self.answer(state.objects.get(name), faults.pop(0) if faults else "")

        def answer(self, data: bytes | None, fault: str) -> None:
            if fault == "silent":
                time.sleep(1.5)
                self.close_connection = True
                return
            if fault == "busy":
                data, status = b"<Error><Code>SlowDown</Code></Error>", 503
            elif data is None:
                data, status = b"<Error><Code>NoSuchKey</Code></Error>", 404
            else:
                status = 200
            told = len(data) + {"long": 100, "short": -100}.get(fault, 0)
            self.send_response(status)
            self.send_header("Content-Length", str(told))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data[: len(data) // 2])
                time.sleep(state.slow_s)
                self.wfile.write(data[len(data) // 2 :])
            self.close_connection = bool(fault)

    with served(Answering) as url:
        state.port = int(url.rpartition(":")[2])
        yield state
