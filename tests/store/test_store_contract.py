"""What every store promises, on a directory and on an S3 server."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from tests.local_http import Handler, served
from vila_core.errors import AlreadyExists, Conflict, NotFound, StoreError, UserError
from vila_core.store import Store, open_store


def test_reads_what_was_written_last(store: Store) -> None:
    store.write("a/b.json", b"one")
    store.write("a/b.json", b"two")
    assert store.read("a/b.json") == b"two"
    assert store.exists("a/b.json")
    assert not store.exists("a")


def test_missing_key_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match=r"runs/none\.json: there is no such key"):
        store.read("runs/none.json")
    assert store.etag("runs/none.json") is None
    store.delete("runs/none.json")


def test_create_only_never_replaces(store: Store) -> None:
    store.write("k", b"first", create_only=True)
    with pytest.raises(AlreadyExists, match="k: exists already"):
        store.write("k", b"second", create_only=True)
    assert store.read("k") == b"first"


def test_one_of_many_creators_wins(store: Store) -> None:
    def create(number: int) -> bool:
        try:
            store.write("race", str(number).encode(), create_only=True)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, good in enumerate(pool.map(create, range(16))) if good]
    assert len(won) == 1
    assert store.read("race") == str(won[0]).encode()


def test_swap_needs_the_current_etag(store: Store) -> None:
    first = store.swap("alias", b"1", expected=None)
    assert store.etag("alias") == first
    second = store.swap("alias", b"2", expected=first)
    with pytest.raises(Conflict):
        store.swap("alias", b"3", expected=first)
    with pytest.raises(Conflict):
        store.swap("alias", b"3", expected=None)
    assert store.read("alias") == b"2"
    assert store.etag("alias") == second


def test_swaps_from_many_threads_lose_no_count(store: Store) -> None:
    store.write("count", b"0")

    def add(_: int) -> None:
        while True:
            tag = store.etag("count")
            value = int(store.read("count"))
            try:
                store.swap("count", str(value + 1).encode(), expected=tag)
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert store.read("count") == b"12"


def test_lists_by_prefix_sorted(store: Store) -> None:
    for key in ("runs/b/run.json", "runs/a/run.json", "runs/a/tasks/x", "runs-old", "cache/1"):
        store.write(key, b"x")
    assert list(store.list("runs/")) == ["runs/a/run.json", "runs/a/tasks/x", "runs/b/run.json"]
    assert list(store.list("runs")) == [
        "runs-old", "runs/a/run.json", "runs/a/tasks/x", "runs/b/run.json"
    ]  # fmt: skip
    assert list(store.list("nothing/")) == []
    assert store.children("runs") == ["a", "b"]
    assert store.children("runs/a") == ["run.json", "tasks"]
    assert store.children("") == ["cache", "runs", "runs-old"]
    assert store.children("nothing") == []


def test_files_go_up_and_down(store: Store, tmp_path: Path) -> None:
    content = os.urandom(6 * 2**20)  # more than one part of a multipart upload
    (tmp_path / "up").write_bytes(content)
    store.upload("big/file.bin", tmp_path / "up")
    store.download("big/file.bin", tmp_path / "deep" / "down")
    assert (tmp_path / "deep" / "down").read_bytes() == content
    with pytest.raises(NotFound):
        store.download("big/other.bin", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "a/../b", "a//b", "./a", "a/", ".vila-x/a", "a\0"]
)
def test_unusable_keys_are_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="not a store key"):
        store.write(key, b"x")
    with pytest.raises(ValueError, match="not a store key"):
        store.read(key)


def test_the_uri_opens_the_same_store(store: Store) -> None:
    store.write("k", b"v")
    assert open_store(store.uri).read("k") == b"v"


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://", "file://other-host/x", ""])
def test_a_uri_that_is_no_store(uri: str) -> None:
    with pytest.raises(UserError):
        open_store(uri)


def test_s3_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(UserError, match="set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x")


def test_s3_endpoint_that_is_none(
    s3_environment: dict[str, str], s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_S3_ENDPOINT", "minio:9000")
    with pytest.raises(UserError, match="VILA_S3_ENDPOINT=minio:9000"):
        open_store("s3://bucket/x")


def test_s3_bucket_that_is_missing(s3_store: Store) -> None:
    with pytest.raises(StoreError, match="no such bucket; create it"):
        open_store("s3://no-such-bucket/x").write("k", b"v")


def test_s3_server_that_is_not_there(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="check VILA_S3_ENDPOINT"):
        open_store("s3://bucket/x").read("k")


class LosesTheFirstAnswer(Handler):
    """A server that does what it is asked, and hangs up before it says so."""

    stored: ClassVar[list[bytes]] = []

    def do_PUT(self) -> None:
        self.stored.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.close_connection = True


def test_a_conditional_write_is_sent_once(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated by the HTTP client it would meet its own writing, and be told that it had lost."""
    with served(LosesTheFirstAnswer) as url:
        monkeypatch.setenv("VILA_S3_ENDPOINT", url)
        store = open_store("s3://bucket")
        with pytest.raises(StoreError, match="does not answer"):
            store.write("k", b"mine", create_only=True)
        assert LosesTheFirstAnswer.stored == [b"mine"]
        with pytest.raises(StoreError, match="does not answer"):
            store.write("k", b"again")
        assert LosesTheFirstAnswer.stored.count(b"again") == 4


@pytest.mark.slow
@pytest.mark.needs_s3_real
def test_a_real_server_refuses_a_wrong_secret(
    real_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_store.write("k", b"v")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(StoreError, match="the secret key is wrong; check AWS_SECRET_ACCESS_KEY"):
        open_store(real_store.uri).read("k")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StoreError, match="the access key is unknown; check AWS_ACCESS_KEY_ID"):
        open_store(real_store.uri).write("k", b"x")
