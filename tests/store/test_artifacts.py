"""Artifacts: addressed by content, verified when read, never half there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vila_core.errors import Damaged, NotFound, StoreError
from vila_core.store import (
    ArtifactRef,
    Store,
    fetch,
    fetch_below,
    open_store,
    publish,
    read_pieces,
    verify,
)
from vila_core.store.base import CHUNK

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "out")


def make(place: Path, text: str = "{}") -> Path:
    (place / "deep").mkdir(parents=True)
    (place / "config.json").write_text(text)
    (place / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 40)
    return place


def contents(place: Path) -> dict[str, bytes]:
    files = (path for path in place.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def test_round_trip(store: Store, folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    ref = publish(store, folder)
    assert ref.uri == f"{store.uri}/artifacts/{ref.sha256}"
    assert contents(fetch(store, ref, cache=tmp_path / "cache")) == before
    assert contents(folder) == before


def test_digest_depends_on_content_and_names_alone(store: Store, tmp_path: Path) -> None:
    first = publish(store, make(tmp_path / "a"))
    again = make(tmp_path / "b")
    os.utime(again / "config.json", (1, 1))
    assert publish(store, again) == first
    assert publish(store, make(tmp_path / "c", "{} ")) != first
    renamed = make(tmp_path / "d")
    (renamed / "config.json").rename(renamed / "config2.json")
    assert publish(store, renamed) != first


def test_files_end_read_only_and_are_not_copied(file_store: Store, folder: Path) -> None:
    inode = (folder / "config.json").stat().st_ino
    ref = publish(file_store, folder, move=True)
    place = fetch(file_store, ref)
    assert not folder.exists()
    assert (place / "config.json").stat().st_ino == inode
    for path in place.rglob("*"):
        if path.is_file():
            assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_a_changed_file_is_found(file_store: Store, folder: Path) -> None:
    ref = publish(file_store, folder)
    bad = fetch(file_store, ref) / "deep" / "weights.bin"
    bad.chmod(0o644)
    data = bytearray(bad.read_bytes())
    data[100] ^= 1
    bad.write_bytes(data)
    with pytest.raises(Damaged, match=r"deep/weights\.bin: does not match its digest"):
        fetch(file_store, ref)
    assert publish(file_store, folder) == ref  # puts a whole one in its place
    verify(file_store, ref)


def test_a_missing_file_and_a_missing_artifact_are_found(file_store: Store, folder: Path) -> None:
    ref = publish(file_store, folder)
    (fetch(file_store, ref) / "config.json").unlink()
    with pytest.raises(Damaged, match=r"config\.json: is missing"):
        verify(file_store, ref)
    with pytest.raises(NotFound, match="no such artifact"):
        fetch(file_store, ArtifactRef(uri="file:///elsewhere", sha256="0" * 64))


def test_a_changed_manifest_is_found(file_store: Store, folder: Path) -> None:
    ref = publish(file_store, folder)
    manifest = fetch(file_store, ref) / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text('{"files":[]}')
    with pytest.raises(Damaged, match=r"manifest\.json"):
        verify(file_store, ref)


def test_links_and_reserved_names_are_refused(store: Store, folder: Path) -> None:
    (folder / "link").symlink_to("config.json")
    with pytest.raises(StoreError, match="link: is a link"):
        publish(store, folder)
    (folder / "link").unlink()
    (folder / "manifest.json").write_text("mine")
    with pytest.raises(StoreError, match="name is reserved"):
        publish(store, folder)
    with pytest.raises(StoreError, match="no such folder"):
        publish(store, folder / "none")


def test_publishing_at_the_same_time(file_store: Store, tmp_path: Path) -> None:
    folders = [make(tmp_path / f"out{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        refs = set(pool.map(lambda each: publish(file_store, each, move=True), folders))
    assert len(refs) == 1
    verify(file_store, refs.pop())
    assert len(os.listdir(tmp_path / "store" / "artifacts")) == 1


def test_a_moved_store_still_has_its_artifacts(tmp_path: Path, folder: Path) -> None:
    ref = publish(open_store(tmp_path / "old"), folder)
    (tmp_path / "old").rename(tmp_path / "new")
    assert fetch(open_store(tmp_path / "new"), ref).is_relative_to(tmp_path / "new")


def test_s3_damage_is_found_when_fetched(s3_store: Store, folder: Path, tmp_path: Path) -> None:
    ref = publish(s3_store, folder)
    s3_store.write(f"artifacts/{ref.sha256}/config.json", b"{!")
    with pytest.raises(Damaged, match=r"config\.json: does not match"):
        fetch(s3_store, ref, cache=tmp_path / "cache")
    assert os.listdir(tmp_path / "cache" / "artifacts") == []
    s3_store.delete(f"artifacts/{ref.sha256}/config.json")
    with pytest.raises(Damaged, match=r"config\.json: is missing"):
        verify(s3_store, ref)


def test_s3_cache_is_verified_and_used(s3_store: Store, folder: Path, tmp_path: Path) -> None:
    ref = publish(s3_store, folder)
    place = fetch(s3_store, ref, cache=tmp_path / "cache")
    inode = (place / "config.json").stat().st_ino
    assert (fetch(s3_store, ref, cache=tmp_path / "cache") / "config.json").stat().st_ino == inode
    (place / "config.json").chmod(0o644)
    (place / "config.json").write_text("spoiled")
    assert (fetch(s3_store, ref, cache=tmp_path / "cache") / "config.json").read_text() == "{}"


def test_a_killed_publisher_leaves_no_half_artifact(tmp_path: Path) -> None:
    """SIGKILL while publishing: every artifact that is listed is whole."""
    code = f"""
import os, shutil
from pathlib import Path
from vila_core.store import open_store, publish
store = open_store({str(tmp_path / "store")!r})
for number in range(10_000):
    out = Path({str(tmp_path)!r}) / f"out{{os.getpid()}}-{{number}}"
    out.mkdir()
    for name in "abc":
        (out / name).write_bytes(os.urandom(50_000))
    publish(store, out, move=number % 2 == 0)
"""
    store = open_store(tmp_path / "store")
    for round_ in range(8):
        publisher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        seen = len(store.children("artifacts"))
        while len(store.children("artifacts")) <= seen:
            time.sleep(0.005)
        time.sleep(0.013 * round_)
        publisher.kill()
        publisher.wait()
        for sha256 in store.children("artifacts"):
            verify(store, ArtifactRef(uri="", sha256=sha256))
    assert len(store.children("artifacts")) >= 8


def test_some_files_of_an_artifact_are_fetched_alone(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    ref = publish(store, folder)
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    below = [name for name in names if name.startswith("config")]
    assert 0 < len(below) < len(names)
    place = fetch_below(store, ref, "config", tmp_path / "part")
    for name in below:
        assert (place / name).read_bytes() == (folder / name).read_bytes()
    if store.local_path("x") is None:
        copied = [path.name for path in (tmp_path / "part").rglob("*") if path.is_file()]
        assert sorted(copied) == below
    store.delete(f"artifacts/{ref.sha256}/{below[0]}")
    with pytest.raises((Damaged, NotFound), match="config"):
        fetch_below(store, ref, "config", tmp_path / "again")


def test_a_large_file_comes_in_pieces(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * (CHUNK // 128) + b"end"
    made = make(tmp_path / "large")
    (made / "large.bin").write_bytes(data)
    ref = publish(store, made)
    pieces = list(read_pieces(store, ref, "large.bin"))
    assert max(map(len, pieces)) <= CHUNK
    assert b"".join(pieces) == data
    with pytest.raises(NotFound, match="no file other"):
        next(read_pieces(store, ref, "other"))


def test_pieces_that_are_damaged_are_told_at_their_end(file_store: Store, folder: Path) -> None:
    ref = publish(file_store, folder)
    path = file_store.local_path(f"artifacts/{ref.sha256}/config.json")
    assert path is not None
    path.chmod(0o644)
    path.write_text("[]")
    pieces = read_pieces(file_store, ref, "config.json")
    assert next(pieces) == b"[]"
    with pytest.raises(Damaged, match=r"config.json: does not match"):
        next(pieces)
