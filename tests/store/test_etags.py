"""Keys come with their etags, in one listing."""

from __future__ import annotations

from pathlib import Path

from vila_core.store import FileStore, Store


def check(store: Store) -> None:
    for name in ("b/2", "a", "b/1"):
        store.write(name, name.encode())
    listed = dict(store.etags())
    assert list(listed) == ["a", "b/1", "b/2"] == list(store.list())
    assert listed == {name: store.etag(name) for name in listed}
    assert list(store.etags("b/")) == [(name, listed[name]) for name in ("b/1", "b/2")]
    store.write("b/1", b"other")
    assert dict(store.etags())["b/1"] != listed["b/1"]


def test_of_a_directory(tmp_path: Path) -> None:
    check(FileStore(tmp_path))


def test_of_a_bucket(s3_store: Store) -> None:
    check(s3_store)
