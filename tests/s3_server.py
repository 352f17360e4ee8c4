"""A real S3 server over HTTP for tests: moto's, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping

import pytest
from minio import Minio
from minio.versioningconfig import SUSPENDED, VersioningConfig

from vila_core.store import Store, open_store

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester-secret"}
BUCKET = "vila-tests"


ATOMIC = """
import sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

serve, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_by_one(environ, start_response):
    with lock:
        return list(serve(environ, start_response))

run_simple("127.0.0.1", int(sys.argv[1]), one_by_one, threaded=True)
"""
"""moto looks at the condition of a PUT and then writes: two at once may both be let in.

Real servers don't do that. So for races this one answers one request at a time.
"""


@contextlib.contextmanager
def running(*, atomic: bool = False) -> Iterator[dict[str, str]]:
    """Start the server with one bucket; yield the environment that reaches it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    port = address.split(":")[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    if atomic:
        command = [sys.executable, "-c", ATOMIC, port]
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **CREDENTIALS},
    )
    try:
        _wait(f"http://{address}/moto-api/", server)
        client = Minio(address, *CREDENTIALS.values(), secure=False, region="us-east-1")
        client.make_bucket(BUCKET)
        yield {**CREDENTIALS, "VILA_S3_ENDPOINT": f"http://{address}", "AWS_REGION": "us-east-1"}
    finally:
        server.kill()
        server.wait()


def fresh_store(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    """Open an empty place in the server's bucket."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def without_versions(environment: Mapping[str, str]) -> None:
    """Turn the bucket's versions off, which other tests turn on.

    moto lists a "folder" whose objects are deleted as long as it keeps versions of them; a real
    server does not.
    """
    address = environment["VILA_S3_ENDPOINT"].removeprefix("http://")
    keys = (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    client = Minio(address, *keys, secure=False, region="us-east-1")
    client.set_bucket_versioning(BUCKET, VersioningConfig(SUSPENDED))


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
