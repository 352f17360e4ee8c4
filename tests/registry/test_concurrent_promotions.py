"""Fifty promotions at once, of processes: one winner of each compare-and-swap, a whole chain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.registry import HistoryEntry, Registry, Version, keys
from components.registry.verify import check
from tests import s3_server
from vila_core.store import ArtifactRef, Store, open_store

ROOT = Path(__file__).parents[2]
PROCESSES, EACH = 5, 10
VERSIONS = 4

WORKER = """
import json, sys, threading
from components.registry import Registry
from vila_core.errors import Conflict
from vila_core.store import open_store

uri, process, count, expected = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
results, start = [], threading.Barrier(count + 1)

def promote(number):
    registry = Registry(open_store(uri))
    to = 1 + number % 4
    start.wait()
    try:
        entry = registry.move("mini", "champion", to, why=f"{process}.{number}", expected=expected)
        results.append([entry.seq, entry.before, entry.version, entry.why])
    except Conflict:
        results.append(None)

threads = [threading.Thread(target=promote, args=(n,)) for n in range(count)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
start.wait()
for thread in threads:
    thread.join()
print(json.dumps(results))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    keys.own_key(create=True)


@pytest.fixture(scope="module")
def atomic_environment() -> Iterator[dict[str, str]]:
    with s3_server.running(atomic=True) as environment:
        yield environment


@pytest.fixture
def bucket(atomic_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    return s3_server.fresh_store(atomic_environment, monkeypatch)


def registered(store: Store) -> Registry:
    registry = Registry(store)
    for number in range(VERSIONS):
        artifact = ArtifactRef(uri="", sha256="a" * 64)
        registry.register(Version("mini", 0, artifact, f"r{number}", "key", {}, {}, {}))
    return registry


def at_once(store: Store, expected: int | str | None) -> tuple[list[list[object] | None], float]:
    """Start all, let them go together; return what each got, and the seconds that it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, store.uri, str(n), str(EACH), json.dumps(expected)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for n in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    began = time.monotonic()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    found = [json.loads(worker.communicate(timeout=240)[0]) for worker in workers]
    return [one for part in found for one in part], time.monotonic() - began


def whole(entries: list[HistoryEntry]) -> None:
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [b.previous for b in entries[1:]] == [a.digest() for a in entries[:-1]]
    assert [b.before for b in entries[1:]] == [a.version for a in entries[:-1]]


def nothing_wrong(store: Store) -> None:
    """Of the records: the artifacts are none here."""
    found = check(store, "mini")
    assert {one.key for one in found.findings} == {f"artifacts/{'a' * 64}/manifest.json"}
    assert set(found.signatures) == {"valid"}


def one_wins(store: Store) -> float:
    registry = registered(store)
    results, seconds = at_once(store, expected=None)
    assert len(results) == PROCESSES * EACH
    (won,) = [one for one in results if one is not None]
    assert results.count(None) == PROCESSES * EACH - 1
    (entry,) = registry.history("mini")
    assert [entry.seq, entry.before, entry.version, entry.why] == won
    second, more = at_once(store, expected=entry.version)
    winners = [one for one in second if one is not None]
    standing = [each for each in winners if each[2] == entry.version]
    # Who "moves" it to where it stands leaves it there, so others may still win after that.
    assert len(winners) == len(standing) + 1
    entries = registry.history("mini")
    assert sorted([e.seq, e.before, e.version, e.why] for e in entries[1:]) == sorted(winners)
    whole(entries)
    assert registry.aliases("mini") == {"champion": entries[-1].version}
    nothing_wrong(store)
    return seconds + more


def all_stand(store: Store) -> float:
    registry = registered(store)
    results, seconds = at_once(store, expected="any")
    entries = registry.history("mini")
    assert sorted([e.seq, e.before, e.version, e.why] for e in entries) == sorted(
        one for one in results if one is not None
    )
    assert len(entries) == PROCESSES * EACH
    assert set(Counter(entry.why for entry in entries).values()) == {1}
    whole(entries)
    pointer = json.loads(store.read("registry/mini/aliases/champion.json"))
    assert pointer == {"version": entries[-1].version, "seq": len(entries)}
    nothing_wrong(store)
    return seconds


@pytest.mark.slow
def test_of_fifty_in_a_directory_one_wins(tmp_path: Path) -> None:
    print(f"\n2 x 50 in a directory: {one_wins(open_store(tmp_path / 'store')):.1f} s")


@pytest.mark.slow
def test_of_fifty_in_a_bucket_one_wins(bucket: Store) -> None:
    print(f"\n2 x 50 in a bucket: {one_wins(bucket):.1f} s")


@pytest.mark.slow
def test_fifty_in_a_directory_that_expect_nothing_all_stand(tmp_path: Path) -> None:
    print(f"\n50 in a directory: {all_stand(open_store(tmp_path / 'store')):.1f} s")


@pytest.mark.slow
def test_fifty_in_a_bucket_that_expect_nothing_all_stand(bucket: Store) -> None:
    print(f"\n50 in a bucket: {all_stand(bucket):.1f} s")


@pytest.mark.needs_s3_real
@pytest.mark.slow
def test_fifty_in_a_real_bucket(real_store: Store) -> None:
    print(f"\n2 x 50 in a bucket of Ceph's RGW: {one_wins(real_store):.1f} s")
