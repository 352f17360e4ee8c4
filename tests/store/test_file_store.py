"""The directory store when the disk, the permissions or the process fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vila_core.errors import StoreError
from vila_core.store import FileStore, open_store, publish

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(small_disk: Path) -> None:
    store = open_store(small_disk)
    store.write("k", b"old")
    with pytest.raises(StoreError, match=r"k: can't be written: no space left .* free some space"):
        store.write("k", bytes(2**21))
    assert store.read("k") == b"old"
    assert os.listdir(small_disk) == ["k"]


def test_publishing_to_a_full_disk_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.bin").write_bytes(bytes(2**21))
    store = open_store(small_disk)
    with pytest.raises(StoreError, match="no space left"):
        publish(store, tmp_path / "out", move=True)
    assert list(store.list()) == []
    assert os.listdir(small_disk / "artifacts") == []
    assert (tmp_path / "out" / "model.bin").exists()


def test_file_size_limit(tmp_path: Path) -> None:
    """Like a full disk, for machines where no small file system can be mounted."""
    code = f"""
import resource
from vila_core.errors import StoreError
from vila_core.store import open_store
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
store = open_store({str(tmp_path)!r})
store.write("k", b"old")
try:
    store.write("k", bytes(5000))
except StoreError as error:
    print(error)
print(store.read("k"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "k: can't be written: the file is larger than" in done.stdout
    assert done.stdout.endswith("b'old'\n")
    assert os.listdir(tmp_path) == ["k"]


def test_store_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file, not a directory; choose another store"):
        open_store(tmp_path / "file" / "store").write("k", b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_store_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied; make the store writable"):
        open_store(tmp_path).write("k", b"x")


def test_read_only_file_system() -> None:
    with pytest.raises(StoreError, match="can't be written"):
        open_store("/proc/vila").write("k", b"x")


def test_a_killed_writer_leaves_the_old_or_the_new_value(tmp_path: Path) -> None:
    """SIGKILL at twenty moments: never a half-written value, never a listed leftover."""
    code = f"""
from vila_core.store import open_store
store = open_store({str(tmp_path)!r})
number = 0
while True:
    store.write("value", bytes([number % 251]) * 300_000)
    number += 1
"""
    for round_ in range(20):
        writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while not (tmp_path / "value").exists():
            time.sleep(0.005)
        time.sleep(0.01 + 0.007 * round_)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        value = (tmp_path / "value").read_bytes()
        assert len(value) == 300_000
        assert len(set(value)) == 1
        assert list(FileStore(tmp_path).list()) == ["value"]


def test_relative_path_and_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_store(".vila").uri == (tmp_path / ".vila").as_uri()
    assert open_store("~/x").local_path("a") == tmp_path / "home" / "x" / "a"
    spaced = open_store(tmp_path / "a b%20")
    spaced.write("k", b"v")
    assert open_store(spaced.uri).read("k") == b"v"
