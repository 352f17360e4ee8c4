"""`vila dashboard` as a process: it starts quickly, stays small, ends when told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dashboards import ROOT, Dashboard
from made_runs import write_end, write_run

from vila_core.store import open_store

MIB = 2**20


def until_status(dashboard: Dashboard, path: str, status: int, seconds: float = 20.0) -> str:
    deadline = time.monotonic() + seconds
    while True:
        found, text = dashboard.get(path)
        if found == status:
            return text
        assert time.monotonic() < deadline, f"{path}: {found} instead of {status}: {text}"
        time.sleep(0.1)


def vila(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vila_ops.cli.main", "dashboard", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_it_starts_serves_and_ends(tmp_path: Path, dashboards: list[Dashboard]) -> None:
    store = open_store(tmp_path / "store")
    write_run(store, "toy-1129-101010-aaaa")
    write_end(store, "toy-1129-101010-aaaa", "succeeded")
    # Nothing but the store may be written, and not even that.
    for number, ending in enumerate((signal.SIGTERM, signal.SIGINT)):
        one = Dashboard("--store", tmp_path / "store", env={"HOME": "/nowhere"}, cwd=tmp_path)
        dashboards.append(one)
        until_status(one, "/healthz", 200)
        deadline = time.monotonic() + 20
        while "toy-1129" not in one.get("/")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert one.get("/runs/toy-1129-101010-aaaa")[0] == 200
        assert 'vila_runs{status="succeeded"} 1' in one.get("/metrics")[1]
        assert psutil.Process(one.process.pid).memory_info().rss < 300 * MIB
        code, err = one.end(ending)
        assert code == 0, err
        assert "Traceback" not in err
        assert number < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


@pytest.mark.slow
def test_its_store_goes_away_and_comes_back(tmp_path: Path, dashboards: list[Dashboard]) -> None:
    store = open_store(tmp_path / "store")
    write_run(store, "toy-1129-101010-aaaa")
    one = Dashboard("--store", tmp_path / "store", env={}, cwd=tmp_path)
    dashboards.append(one)
    until_status(one, "/healthz", 200)
    (tmp_path / "store").rename(tmp_path / "away")
    until_status(one, "/healthz", 503)
    assert one.get("/livez")[0] == 200
    assert one.get("/runs/toy-1129-101010-aaaa")[0] in (404, 503)
    (tmp_path / "away").rename(tmp_path / "store")
    until_status(one, "/healthz", 200)
    assert one.get("/runs/toy-1129-101010-aaaa")[0] == 200


def test_a_bucket_without_server_is_told(tmp_path: Path, dashboards: list[Dashboard]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    env = {**keys, "VILA_S3_ENDPOINT": f"http://127.0.0.1:{port}"}
    one = Dashboard("--store", "s3://bucket/x", env=env, cwd=tmp_path)
    dashboards.append(one)
    assert one.get("/livez")[0] == 200
    assert one.get("/healthz")[0] == 503
    page = until_status(one, "/", 503)
    assert "can&#39;t be reached" in page or "The store can't be reached" in page
    assert one.get("/runs/x")[0] == 503
    assert one.end(signal.SIGTERM)[0] == 0


def test_tokens_by_the_command_line(tmp_path: Path, dashboards: list[Dashboard]) -> None:
    refused = vila("--host", "0.0.0.0", cwd=tmp_path)
    assert refused.returncode == 2
    assert "needs --tokens FILE or --oidc FILE; fix: vila dashboard token" in refused.stderr
    made = vila("token", "--name", "ada", "--file", "tokens", cwd=tmp_path)
    token = made.stdout.strip()
    assert token.startswith("vila_")
    assert token not in (tmp_path / "tokens").read_text()
    one = Dashboard(
        "--host", "0.0.0.0", env={"VILA_DASHBOARD_TOKENS": str(tmp_path / "tokens")}, cwd=tmp_path
    )
    dashboards.append(one)
    assert one.get("/metrics")[0] == 401
    assert one.get("/metrics", Authorization=f"Bearer {token}")[0] == 200


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failed = vila("--port", taken.getsockname()[1], cwd=tmp_path)
    assert failed.returncode == 2
    assert "Address already in use; fix: another --port" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("words", [("--port", "70000"), ("token",), ("token", "--name", "a b")])
def test_mistakes(tmp_path: Path, words: tuple[str, ...]) -> None:
    failed = vila(*words, cwd=tmp_path)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
