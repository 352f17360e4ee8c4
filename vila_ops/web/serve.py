"""A server's process: a socket, a server, and an orderly end; the dashboard's with them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from vila_core.errors import UserError
from vila_ops.web.access import is_loopback

GRACE_SECONDS = 5
MOST_CONNECTIONS = 512
"""Those above are answered with 503: slow clients must not take all memory."""


def check_host(host: str, *, guarded: bool, ways: str) -> None:
    """Raise UserError for an address that others can reach while nobody has to log in.

    `ways` are the options that would ask them to.
    """
    if not guarded and not is_loopback(host):
        raise UserError(
            f"--host {host}: others can reach it, so it needs {ways}; "
            "fix: vila dashboard token --name YOU --file FILE makes a token"
        )


def serve(app: FastAPI, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `say` is told the address once connections are taken.

    Raises UserError for an address that can't be listened on.
    """
    server = make_server(
        app,
        "vila.audit",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    with listening(host, port) as (taken, address):
        on_end(stop)
        say(f"dashboard: {address}")
        server.run(sockets=[taken])


class QuietServer(uvicorn.Server):
    """A server that leaves signals to its process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `on_end`: uvicorn would raise them again, the exit code be theirs."""
        yield


def make_server(app: ASGIApp, log: str, **limits: int) -> QuietServer:
    """Return a server of `app` that logs what our logger `log` tells, and no request.

    `limits` are settings of uvicorn's.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger(log).setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # a proxy is believed by those alone who were told of it
        server_header=False,
        **limits,  # type: ignore[arg-type]
    )
    return QuietServer(config)


def on_end(stop: Callable[[int, FrameType | None], None]) -> None:
    """Let `stop` answer SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Give a socket that listens there, and its URL. Raises UserError where none can."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        named = isinstance(error, socket.gaierror) or not error.errno
        reason = error.strerror if named else os.strerror(error.errno or 0)
        raise UserError(
            f"--host {host} --port {port}: can't be listened on: {reason}; "
            "fix: another --port, or 0 for a free one"
        ) from None
    with made:
        shown = f"[{host}]" if ":" in host else host
        yield made, f"http://{shown}:{made.getsockname()[1]}"
