"""The shard cache alone: whole files or none, within a budget, from a store that may misbehave."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import flaky_s3
from tests.flaky_s3 import ALWAYS, FlakyS3
from vila_core.data.cache import RemoteFile, ShardCache, size_from_environment
from vila_core.errors import Damaged, NotFound, StoreError, Unreachable, UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    with flaky_s3.running() as state:
        for name, value in state.environment().items():
            monkeypatch.setenv(name, value)
        yield state


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "shards", 10_000, attempts=3, pause_s=0.01)


def put(server: FlakyS3, name: str, size: int = 3000) -> RemoteFile:
    data = hashlib.shake_256(name.encode()).digest(size)
    server.objects[name] = data
    return RemoteFile("s3://bucket", name, hashlib.sha256(data).hexdigest(), size)


def content(cache: ShardCache, file: RemoteFile) -> bytes:
    with open(cache.open(file), "rb") as opened:
        return opened.read()


def files_in(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir() if path.is_file()}


def test_a_file_is_fetched_once_and_named_by_its_content(
    server: FlakyS3, cache: ShardCache
) -> None:
    file = put(server, "corpora/a.tar")
    assert content(cache, file) == content(cache, file) == server.objects["corpora/a.tar"]
    assert server.asked["corpora/a.tar"] == 1
    assert files_in(cache) == {file.sha256}


def test_the_longest_unused_make_room_and_readers_keep_what_they_opened(
    server: FlakyS3, cache: ShardCache
) -> None:
    files = [put(server, name) for name in "abcd"]
    first = cache.open(files[0])
    for number, file in enumerate(files[1:3], 1):
        os.utime(cache.folder / files[number - 1].sha256, (number, number))
        content(cache, file)
    os.utime(cache.folder / files[2].sha256, (3, 3))
    content(cache, files[3])
    assert files_in(cache) == {file.sha256 for file in files[1:]}
    assert cache.used() == 9000
    with open(first, "rb") as opened:
        assert opened.read() == server.objects["a"]
    cache.touch([files[1]])  # now `c` is the one that was used longest ago
    content(cache, files[0])
    assert files_in(cache) == {files[n].sha256 for n in (0, 1, 3)}


def test_many_readers_fetch_each_file_once(server: FlakyS3, cache: ShardCache) -> None:
    files = [put(server, name, 1000) for name in "abcdefgh"]
    server.slow_s = 0.02
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: content(cache, files[n % 8]), range(64)))
    assert found == [server.objects["abcdefgh"[n % 8]] for n in range(64)]
    assert set(server.asked.values()) == {1}


def test_readers_of_more_than_there_is_room_for_all_get_on(
    server: FlakyS3, cache: ShardCache
) -> None:
    files = [put(server, name, 4000) for name in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: content(cache, files[n % 8]), range(48)))
    assert found == [server.objects["abcdefgh"[n % 8]] for n in range(48)]
    assert cache.used() <= cache.budget


FETCH = """
import sys
from pathlib import Path
from vila_core.data.cache import RemoteFile, ShardCache
folder, name, sha256, size = sys.argv[1:]
ShardCache(Path(folder), 10_000).open(RemoteFile("s3://bucket", name, sha256, int(size)))
"""


def start_fetching(cache: ShardCache, file: RemoteFile) -> subprocess.Popen[bytes]:
    words = [str(cache.folder), file.key, file.sha256, str(file.size)]
    return subprocess.Popen([sys.executable, "-c", FETCH, *words])


def test_nothing_of_a_killed_fetch_is_trusted_or_left(
    server: FlakyS3, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = put(server, "a", 6000), put(server, "b", 6000)
    server.slow_s = 60.0
    monkeypatch.setenv("VILA_S3_TIMEOUT", "100")
    process = start_fetching(cache, file)
    part = cache.folder / f"{file.sha256}.part"
    while not part.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.slow_s = 0.0
    assert part.exists()
    content(cache, other)  # there is no room for both
    assert not part.exists()
    assert content(cache, file) == server.objects["a"]


def test_processes_share_one_fetch(server: FlakyS3, cache: ShardCache) -> None:
    file = put(server, "a")
    server.slow_s = 0.4
    processes = [start_fetching(cache, file) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert server.asked["a"] == 1


@pytest.mark.parametrize("fault", ["silent", "busy", "long"])
def test_a_passing_fault_is_tried_again(server: FlakyS3, cache: ShardCache, fault: str) -> None:
    file = put(server, "a")
    server.faults["a"] = [fault]
    assert content(cache, file) == server.objects["a"]
    assert server.asked["a"] >= 2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("silent", r"can't be read: the server does not answer \(.*\n  tried 3 times"),
        ("busy", r"can't be read: .*\n  tried 3 times"),
        ("long", r"the answer broke off before its announced length\.\n  tried 3 times"),
        ("short", r"manifest says: it has 2,900 bytes, not 3,000"),
    ],
)
def test_a_lasting_fault_is_one_message_that_names_the_object(
    server: FlakyS3, cache: ShardCache, fault: str, told: str
) -> None:
    file = put(server, "corpora/a.tar")
    server.faults["corpora/a.tar"] = [fault] * ALWAYS
    with pytest.raises(StoreError, match=rf"^s3://bucket/corpora/a\.tar: .*{told}"):
        cache.open(file)
    assert files_in(cache) == set()


def test_an_object_that_was_changed_or_is_gone(server: FlakyS3, cache: ShardCache) -> None:
    file, gone = put(server, "a"), put(server, "b")
    server.objects["a"] = bytes(3000)
    with pytest.raises(Damaged, match=r"s3://bucket/a: is not what .* its sha256 is \w+…, not"):
        cache.open(file)
    assert server.asked["a"] == 2  # the network may have been at fault
    server.objects["a"] = bytes(5000)
    with pytest.raises(Damaged, match=r"it has more than 3,000 bytes"):
        cache.open(file)
    del server.objects["b"]
    with pytest.raises(NotFound, match=r"s3://bucket/b: there is no such object"):
        cache.open(gone)
    assert files_in(cache) == set()


def test_an_endpoint_that_refuses(cache: ShardCache, monkeypatch: pytest.MonkeyPatch) -> None:
    state = FlakyS3(port=9)
    for name, value in state.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unreachable, match=r"s3://bucket/a: .*check VILA_S3_ENDPOINT"):
        cache.open(put(state, "a"))


def test_a_file_that_lost_its_end_is_fetched_again(server: FlakyS3, cache: ShardCache) -> None:
    file = put(server, "a")
    content(cache, file)
    os.truncate(cache.folder / file.sha256, 1000)
    assert content(cache, file) == server.objects["a"]


def test_what_can_not_be_kept_is_told(
    server: FlakyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"20,000 bytes.*may hold 10,000.\n  fix: a larger VILA_CA"):
        ShardCache(tmp_path, 10_000).open(put(server, "a", 20_000))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"s3://bucket/b: can't be kept in .*/file/x: Not a dir"):
        ShardCache(tmp_path / "file" / "x", 10_000).open(put(server, "b"))
    monkeypatch.setenv("VILA_CACHE_SIZE", "1.5GiB")
    assert size_from_environment() == 3 * 2**29
    for bad in ("much", "0", "-1GiB", "5GB"):
        monkeypatch.setenv("VILA_CACHE_SIZE", bad)
        with pytest.raises(UserError, match=f"VILA_CACHE_SIZE={bad}: is not a size"):
            size_from_environment()
