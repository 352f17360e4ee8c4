"""Files to and from a bucket: confirmed, gone on with after a cut, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from tests import s3_proxy, s3_server
from tests.ceph_server import REAL
from tests.s3_proxy import ALWAYS, Proxy
from vila_core.errors import AlreadyExists, Damaged, NotFound, StoreError, Unreachable
from vila_core.store import Store, fetch, open_store, publish, s3_download, s3_upload

ROOT = Path(__file__).parents[2]
PART = 5 * 2**20  # the least that S3 allows
SIZE = 2 * PART + 12_345
PUT_PART = r"PUT .*partNumber="


@pytest.fixture(params=["s3", REAL])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    return request.getfixturevalue(f"{request.param}_environment")


@pytest.fixture
def proxy(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with s3_proxy.running(environment["VILA_S3_ENDPOINT"]) as state:
        settings = {**environment, **state.environment(), "VILA_S3_TIMEOUT": "20"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_upload, "PART", PART)
        monkeypatch.setattr(s3_download, "PIECE", 2**20)
        yield state


@pytest.fixture
def store(proxy: Proxy) -> Store:
    """An empty place in the server's bucket, reached through the proxy."""
    return open_store(f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "up").write_bytes(content)
    return tmp_path / "up"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def client(environment: dict[str, str]) -> Minio:
    keys = (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    return Minio(environment["VILA_S3_ENDPOINT"][7:], *keys, secure=False, region="us-east-1")


def unfinished(environment: dict[str, str], store: Store) -> list[Any]:
    """The uploads below the store that are neither complete nor aborted."""
    prefix = store.uri.removeprefix(f"s3://{s3_server.BUCKET}/")
    found = client(environment)._list_multipart_uploads(s3_server.BUCKET, prefix=prefix)
    return found.uploads


def test_a_large_file_goes_in_parts_and_comes_in_ranges(
    store: Store, proxy: Proxy, file: Path, content: bytes, tmp_path: Path
) -> None:
    store.upload("big", file, sha256=sha256(content))
    assert proxy.count(PUT_PART) == 3
    proxy.seen.clear()
    store.download("big", tmp_path / "down", sha256=sha256(content))
    assert (tmp_path / "down").read_bytes() == content
    assert proxy.count("GET") == 11
    store.download("big", tmp_path / "again")  # its own metadata says what it must be
    assert store.read("big") == content == b"".join(store.chunks("big"))


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, PART, PART + 1, 2 * PART])
def test_sizes_at_the_edges(store: Store, proxy: Proxy, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "up").write_bytes(data)
    store.upload("k", tmp_path / "up", sha256=sha256(data))
    assert proxy.count(PUT_PART) == (0 if size <= PART else 2)
    store.download("k", tmp_path / "down", sha256=sha256(data))
    assert (tmp_path / "down").read_bytes() == data
    assert store.read("k") == data


@pytest.mark.parametrize("size", [1000, SIZE])
def test_another_content_than_the_digest_says_is_not_uploaded(
    store: Store, environment: dict[str, str], file: Path, tmp_path: Path, size: int
) -> None:
    os.truncate(file, size)
    store.write("k", b"old")
    with pytest.raises(Damaged, match="up: has changed since its digest was taken"):
        store.upload("k", file, sha256="0" * 64)
    assert store.read("k") == b"old"
    assert not unfinished(environment, store)


@pytest.mark.parametrize("size", [1000, SIZE])
def test_what_is_damaged_once_on_the_way_up_is_sent_again(
    store: Store, proxy: Proxy, file: Path, content: bytes, size: int
) -> None:
    os.truncate(file, size)
    proxy.order("PUT", "flip up")
    store.upload("k", file)
    assert store.read("k") == content[:size]
    assert proxy.count("PUT") == (2 if size == 1000 else 4)


@pytest.mark.parametrize("size", [1000, SIZE])
def test_what_is_always_damaged_on_the_way_up_is_told_and_not_kept(
    store: Store, environment: dict[str, str], proxy: Proxy, file: Path, size: int
) -> None:
    os.truncate(file, size)
    proxy.order("PUT.*partNumber=3|PUT.*/small", "flip up", ALWAYS)
    name = "small" if size == 1000 else "large"
    with pytest.raises(Damaged, match=rf"{name}: the server got other bytes than were sent, 3 tim"):
        store.upload(name, file)
    assert store.etag(name) is None
    assert not unfinished(environment, store)


def test_conditional_writes_that_are_damaged_once_are_put_right(store: Store, proxy: Proxy) -> None:
    proxy.order("PUT", "flip up")
    store.write("k", b"first", create_only=True)
    assert store.read("k") == b"first"
    with pytest.raises(AlreadyExists):
        store.write("k", b"second", create_only=True)
    tag = store.etag("k")
    proxy.order("PUT", "flip up")
    assert store.swap("k", b"second", expected=tag) == store.etag("k")
    assert store.read("k") == b"second"


def test_what_is_damaged_on_the_way_down_is_found(
    store: Store, proxy: Proxy, file: Path, content: bytes, tmp_path: Path
) -> None:
    store.upload("big", file)
    store.write("small", b"a value")
    down = tmp_path / "down"
    proxy.order("GET", "flip down")
    store.download("big", down, sha256=sha256(content))  # at the second try
    assert down.read_bytes() == content
    proxy.order("GET", "flip down")
    assert store.read("small") == b"a value"
    proxy.order("GET", "flip down", ALWAYS)
    with pytest.raises(Damaged, match="big: does not match its digest: its sha256 is"):
        store.download("big", tmp_path / "other", sha256=sha256(content))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["down", "up"]
    with pytest.raises(Damaged, match="small: does not match its digest"):
        store.read("small")


def test_read_back_finds_what_a_server_has_lost(
    store: Store, proxy: Proxy, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The etag says what has arrived; VILA_S3_VERIFY=read says what is there."""
    monkeypatch.setenv("VILA_S3_VERIFY", "read")
    careful = open_store(store.uri)
    careful.upload("big", file)
    careful.write("small", b"a value")
    proxy.order("GET .*big", "flip down", ALWAYS)
    with pytest.raises(Damaged, match="big: does not match its digest"):
        careful.upload("big", file)
    assert careful.etag("big") is None


def test_a_cut_download_goes_on_where_it_was(
    store: Store, proxy: Proxy, file: Path, content: bytes, tmp_path: Path
) -> None:
    store.upload("big", file)
    proxy.seen.clear()
    proxy.order("GET", "cut down", 5)
    store.download("big", tmp_path / "down", sha256=sha256(content))
    assert (tmp_path / "down").read_bytes() == content
    assert proxy.count("GET") == 11 + 5
    proxy.order("GET", "cut down")
    assert store.read("big") == content


def test_lost_connections_and_answers_stop_no_upload(
    store: Store, environment: dict[str, str], proxy: Proxy, file: Path, content: bytes
) -> None:
    for request in ("partNumber=2", r"POST .*\?uploads", "POST .*uploadId"):
        proxy.order(request, "drop")
    proxy.order("partNumber=3", "swallow")
    store.upload("big", file)
    assert store.read("big") == content
    proxy.order("POST .*uploadId", "swallow")  # done, but nobody knows
    store.upload("big", file)
    assert store.read("big") == content
    assert not unfinished(environment, store)


def test_a_server_that_goes_away_leaves_nothing_when_it_is_back(
    store: Store, environment: dict[str, str], proxy: Proxy, file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Long enough for a busy server to take back the parts.
    monkeypatch.setenv("VILA_S3_TIMEOUT", "2")
    proxy.order("partNumber=2", "drop", ALWAYS)
    with pytest.raises(Unreachable, match="big: can't be written: the server does not answer"):
        open_store(store.uri).upload("big", file)
    assert not unfinished(environment, store)
    assert store.etag("big") is None


def test_an_object_that_is_replaced_while_it_is_read_is_read_anew(
    store: Store, environment: dict[str, str], file: Path, content: bytes, tmp_path: Path
) -> None:
    store.upload("big", file)
    reading = s3_download.read(store._place("big"))  # type: ignore[attr-defined]
    next(reading.pieces)
    (tmp_path / "new").write_bytes(content[::-1])
    store.upload("big", tmp_path / "new")
    with pytest.raises(StoreError, match="changed by somebody else"):
        list(reading.pieces)
    store.download("big", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content[::-1]


def killed(store: Store, file: Path, proxy: Proxy, how: signal.Signals) -> int:
    """Start a process that uploads `file` as `big`, end it after one part; its exit code."""
    code = f"""
import signal
from pathlib import Path
from vila_core.store import open_store, s3_upload
s3_upload.PART = {PART}

def stop(number, frame):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, stop)
open_store({store.uri!r}).upload("big", Path({str(file)!r}))
"""
    before = proxy.count(PUT_PART)
    proxy.order("partNumber=[23]", "slow", 2)
    environment = {**os.environ, "VILA_S3_PARALLEL": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while proxy.count(PUT_PART) < before + 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    return process.wait(timeout=60)


def test_sigterm_in_the_middle_leaves_nothing(
    store: Store, environment: dict[str, str], proxy: Proxy, file: Path
) -> None:
    assert killed(store, file, proxy, signal.SIGTERM) == 143
    assert not unfinished(environment, store)
    assert store.etag("big") is None


def test_what_a_killed_process_has_begun_is_gone_on_with(
    store: Store, environment: dict[str, str], proxy: Proxy, file: Path, content: bytes
) -> None:
    assert killed(store, file, proxy, signal.SIGKILL) == -signal.SIGKILL
    assert len(unfinished(environment, store)) == 1
    time.sleep(0.5)  # until the proxy has passed on what it holds
    proxy.seen.clear()
    store.upload("big", file)
    assert 1 <= proxy.count(PUT_PART) <= 2
    assert store.read("big") == content
    assert not unfinished(environment, store)


def test_another_content_begins_anew_and_old_leftovers_are_ended(
    request: pytest.FixtureRequest, store: Store, environment: dict[str, str], proxy: Proxy,
    file: Path, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if request.node.callspec.params["environment"] == "s3":
        pytest.skip("moto gives every upload the same date of 2010")
    killed(store, file, proxy, signal.SIGKILL)
    time.sleep(0.5)
    (tmp_path / "other").write_bytes(content[::-1])
    store.upload("big", tmp_path / "other")
    assert store.read("big") == content[::-1]
    assert len(unfinished(environment, store)) == 1, "it may be a living process's"
    assert store.abort_uploads("", older=timedelta(hours=1)) == 0
    monkeypatch.setattr(s3_upload, "ABANDONED", timedelta())
    store.upload("big", tmp_path / "other")
    assert not unfinished(environment, store)


def test_leftovers_below_a_prefix_are_ended(
    store: Store, environment: dict[str, str], proxy: Proxy, file: Path
) -> None:
    killed(store, file, proxy, signal.SIGKILL)
    time.sleep(0.5)
    assert store.abort_uploads("other/") == 0
    assert store.abort_uploads("b") == 1
    assert store.abort_uploads() == 0
    assert not unfinished(environment, store)


def test_an_artifact_is_damaged_on_the_way_down(store: Store, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights").write_bytes(bytes(5000))
    ref = publish(store, tmp_path / "out")
    proxy.order("GET .*weights", "flip down", ALWAYS)
    with pytest.raises(Damaged, match=r"weights: does not match its digest.* Remove the artifact"):
        fetch(store, ref, cache=tmp_path / "cache")
    with pytest.raises(NotFound):
        fetch(open_store(tmp_path / "cache"), ref)
