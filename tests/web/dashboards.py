"""The dashboard in tests: a client of the application, and a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI
from starlette.testclient import TestClient

from vila_core.store import Store
from vila_ops.web.app import create_app
from vila_ops.web.tokens import Tokens

ROOT = Path(__file__).parents[2]
LOCAL = "http://127.0.0.1:8080"


def client_of(store: Store, tokens: Tokens | None = None, base: str = LOCAL) -> TestClient:
    """A client of the application; the store is listed when the test says so, by no thread."""
    app: FastAPI = create_app(store, tokens)
    app.state.watch.start = lambda: None
    refresh(app)
    return TestClient(app, base_url=base, follow_redirects=False, raise_server_exceptions=False)


def refresh(app: FastAPI) -> None:
    app.state.watch.probe_once()
    try:
        app.state.watch.list_once()
    except Exception:  # the pages tell of it
        assert app.state.watch.trouble


class Dashboard:
    """`vila dashboard` as a process of its own, on a free port."""

    def __init__(self, *words: object, env: Mapping[str, str], cwd: Path) -> None:
        command = [sys.executable, "-m", "vila_ops.cli.main", "dashboard", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)", line)
        if found is None:
            _, err = self.process.communicate()
            raise RuntimeError(f"{line}{err}")
        self.port = int(found.group(1))

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self, signal: int) -> tuple[int, str]:
        self.process.send_signal(signal)
        timer = threading.Timer(20, self.process.kill)
        timer.start()
        _, err = self.process.communicate()
        timer.cancel()
        return self.process.returncode, err
