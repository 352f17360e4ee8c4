"""Corpora in a store give the same batches as in a folder, through a cache that stays in budget."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.runtime.cache import task_key
from tests.ceph_server import REAL
from tests.data.make import captions, documents, pixels, texts, write_corpus
from tests.data.test_data_loader import loader, same, take
from vila_core.data.cache import RemoteFile, ShardCache
from vila_core.data.corpus import Corpus
from vila_core.data.mixture import Mixture, Source
from vila_core.data.readahead import ReadAhead
from vila_core.errors import Damaged, NotFound, UserError
from vila_core.stages import pretrain
from vila_core.stages._training import open_corpora
from vila_core.store import Store, open_store, publish

WEIGHTS = {"coyo": 0.5, "mmc4": 0.3, "flan": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the prepare stage leaves: `corpora` with folders of several shards."""
    data = tmp_path_factory.mktemp("prepared")
    write_corpus(data / "corpora", "coyo", captions("coyo", 60), shard_samples=10)
    write_corpus(data / "corpora", "mmc4", documents("mmc4", 30), shard_samples=8)
    write_corpus(data / "corpora", "flan", texts("flan", 40), shard_samples=12)
    return data


@pytest.fixture(params=["file", "s3", REAL])
def location(
    request: pytest.FixtureRequest,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The folder in a store. The cache is this test's own."""
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "cache"))
    if request.param == "file":
        store = open_store((tmp_path / "store").as_uri())
    else:
        store = request.getfixturevalue(f"{request.param}_store")
    upload(folder, store)
    return store.uri


def upload(folder: Path, store: Store) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.upload(path.relative_to(folder).as_posix(), path)


def in_folder(folder: Path) -> dict[str, Corpus]:
    return open_corpora(folder, WEIGHTS)


def test_samples_come_as_from_the_folder_and_only_once(folder: Path, location: str) -> None:
    here, there = in_folder(folder), open_corpora(location, WEIGHTS)
    for name, corpus in here.items():
        assert [there[name].read(n) for n in range(len(corpus))] == [
            corpus.read(n) for n in range(len(corpus))
        ]
        assert there[name].digest == corpus.digest
        names = {shard["sha256"] for shard in corpus.manifest["shards"]}
        assert names <= {path.name for path in ShardCache.from_environment().folder.iterdir()}
    store = open_store(location)
    for key in list(store.list("corpora/")):
        if key.endswith(".tar"):
            store.delete(key)
    again = open_corpora(location, WEIGHTS)
    assert again["coyo"].read(0) == here["coyo"].read(0)
    # `corpora` itself and one corpus are locations too.
    assert set(open_corpora(f"{location}/corpora", WEIGHTS)) == set(WEIGHTS)
    assert Corpus.open(f"{location}/corpora/flan").name == "flan"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_little_room(
    folder: Path, location: str, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    settings: dict[str, Any] = {"shuffle_shards": 1, "window": 15, "num_workers": workers}
    expected = take(loader(in_folder(folder), **settings), 12)
    sizes = {
        name: [shard["size"] for shard in corpus.manifest["shards"]]
        for name, corpus in in_folder(folder).items()
    }
    budget = int(2 * sum(map(max, sizes.values())) / 0.9) + 1
    assert budget < sum(map(sum, sizes.values()))
    monkeypatch.setenv("VILA_CACHE_SIZE", str(budget))
    there = open_corpora(location, WEIGHTS)
    found = take(loader(there, **settings), 12)
    for (batches, after), (others, state) in zip(expected, found, strict=True):
        assert after == state
        assert all(map(same, batches, others))
    assert ShardCache.from_environment().used() <= budget


def test_order_does_not_depend_on_where_the_data_is(folder: Path, location: str) -> None:
    here, there = in_folder(folder), open_corpora(location, WEIGHTS)
    assert loader(here).fingerprint == loader(there).fingerprint
    assert loader(here, shuffle_shards=2).fingerprint == loader(there, shuffle_shards=2).fingerprint
    assert loader(here, shuffle_shards=2).fingerprint != loader(here).fingerprint


def test_corpora_without_room_name_the_setting(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = open_corpora(location, WEIGHTS)
    total = sum(file.size or 0 for corpus in there.values() for file in corpus.remote)
    monkeypatch.setenv("VILA_CACHE_SIZE", str(int(total * 0.9)))
    told = (
        r"shuffled among all shards .*fetched again and again.\n  fix: shuffle_shards: 1, or a la"
    )
    with pytest.raises(UserError, match=told):
        loader(there)
    loader(there, shuffle_shards=1)
    with pytest.raises(UserError, match="shuffled among 3 shards"):
        loader(there, shuffle_shards=3)
    monkeypatch.setenv("VILA_CACHE_SIZE", "30000")
    with pytest.raises(UserError, match=r"fix: a larger VILA_CACHE_SIZE"):
        loader(there, shuffle_shards=1)


def test_missing_corpora_and_manifests_are_told(location: str) -> None:
    with pytest.raises(UserError, match=r"mixture\.coio: .*/corpora has no corpus 'coio'; did you"):
        open_corpora(location, {"coio": 1.0})
    with pytest.raises(UserError, match=r"/none has no corpus 'coyo'; prepared corpora: none"):
        open_corpora(f"{location}/none", WEIGHTS)
    open_store(location).delete("corpora/coyo/manifest.json")
    with pytest.raises(UserError, match=r"/corpora/coyo: is not a prepared corpus: manifest\.json"):
        open_corpora(location, WEIGHTS)


def test_a_changed_object_stops_the_loader_with_its_name(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = open_corpora(location, WEIGHTS)
    key = "corpora/coyo/coyo-00003.tar"
    store = open_store(location)
    data = bytearray(store.read(key))
    data[700] ^= 1
    store.write(key, bytes(data))
    with pytest.raises(Damaged, match=rf"{location}/{key}: is not what the corpus's manifest says"):
        take(loader(there, num_workers=1), 50)
    index = "corpora/flan/index.npz"
    store.write(index, store.read(index)[:-1])
    Corpus.open(f"{location}/corpora/flan")  # as it was, from the cache
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "other"))
    with pytest.raises(Damaged, match=rf"{location}/{index}: is not what"):
        Corpus.open(f"{location}/corpora/flan")


def test_a_cached_shard_that_went_bad_is_fetched_again(location: str) -> None:
    there = open_corpora(location, WEIGHTS)["coyo"]
    expected = there.read(0)
    place = ShardCache.from_environment().folder / there.remote[0].sha256
    place.write_bytes(bytes(place.stat().st_size))
    assert there.read(0) == expected
    # What the index says and the store doesn't have stays an error.
    there.index.json_crc32[0] += 1
    with pytest.raises(Damaged, match="are not the ones that were indexed"):
        there.read(0)


def test_manifests_are_part_of_a_tasks_key(location: str) -> None:
    def key(place: str) -> dict[str, Any]:
        config = pretrain.Config(data=place)
        return dict(task_key("pretrain", "vila_core.stages.pretrain", config, {}).parts)

    before = key(location)
    assert key(location) == before
    store = open_store(location)
    manifest = "corpora/coyo/manifest.json"
    store.write(manifest, store.read(manifest).replace(b'"samples": 60', b'"samples": 61'))
    assert key(location)["outside"] != before["outside"]
    none = f"{location}/none"
    assert key(none)["outside"] == {none: "missing"}


def test_artifacts_are_read_in_place_and_checked(folder: Path, location: str) -> None:
    store = open_store(location)
    ref = publish(store, folder)
    address = f"artifact+{ref.uri}"
    there, here = open_corpora(address, WEIGHTS), in_folder(folder)
    assert all(there["coyo"].read(n) == here["coyo"].read(n) for n in range(60))
    config = pretrain.Config(data=address)
    assert config.cache_key()["data"] == ref.sha256
    assert not config.outside()
    base = f"artifacts/{ref.sha256}"
    for name, told in (
        ("corpora/mmc4/mmc4-00000.tar", "mmc4-00000.tar: is not what"),
        ("corpora/mmc4/manifest.json", "mmc4/manifest.json: does not match its digest"),
        ("manifest.json", f"{ref.sha256}/manifest.json: does not match its digest"),
    ):
        data = store.read(f"{base}/{name}")
        if (local := store.local_path(f"{base}/{name}")) is not None:
            local.chmod(0o644)
        store.write(f"{base}/{name}", data[:-2] + b"!" + data[-1:])
        with pytest.raises(Damaged, match=re.escape(told)):
            open_corpora(address, WEIGHTS)["mmc4"].read(0)
    with pytest.raises(UserError, match="is not the address of a version"):
        open_corpora(f"artifact+{location}/somewhere", WEIGHTS)


def test_shards_are_shuffled_in_groups() -> None:
    shards_N = np.repeat(np.arange(7), 20)
    lengths_N = np.full(140, 3)
    source = Source("one", lengths_N, shards=shards_N, shuffle_shards=2)
    mixture = Mixture([source], [1.0], seed=5)
    first, second = mixture.order(0, 0), mixture.order(0, 1)
    assert sorted(first.tolist()) == list(range(140))
    groups = [set(shards_N[first[start : start + 40]].tolist()) for start in range(0, 140, 40)]
    assert [len(group) for group in groups] == [2, 2, 2, 1]
    assert set.union(*groups) == set(range(7))
    assert (np.diff(shards_N[first[:40]]) != 0).sum() > 10  # mixed inside of a group
    assert first.tolist() != second.tolist()
    whole = Mixture([Source("one", lengths_N, shards=shards_N)], [1.0], seed=5)
    plain = Mixture([Source("one", lengths_N)], [1.0], seed=5)
    assert whole.order(0, 0).tolist() == plain.order(0, 0).tolist()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def shards(tmp_path: Path) -> list[RemoteFile]:
    store = open_store((tmp_path / "store").as_uri())
    made = []
    for number in range(10):
        data = bytes([number]) * 1000
        store.write(f"{number}.tar", data)
        made.append(RemoteFile(store.uri, f"{number}.tar", hashlib.sha256(data).hexdigest(), 1000))
    return made


def test_read_ahead_fills_the_room_and_goes_on_when_windows_are_done(
    tmp_path: Path, shards: list[RemoteFile]
) -> None:
    cache = ShardCache(tmp_path / "shards", 5000)
    asked: list[int] = []

    def windows() -> Iterator[tuple[int, list[RemoteFile]]]:
        for number in range(9):
            asked.append(number)
            yield number, shards[number : number + 2]

    ahead = ReadAhead(windows(), cache)
    wait_for(lambda: all(map(cache.holds, shards[:4])))
    time.sleep(0.2)
    assert not any(map(cache.holds, shards[4:]))
    assert max(asked) == 3  # the plan itself goes no further
    ahead.reached(3)
    wait_for(lambda: all(map(cache.holds, shards[3:7])))
    assert not any(map(cache.holds, shards[7:]))
    wait_for(lambda: cache.used() <= 5000)
    ahead.close()


def test_read_ahead_leaves_errors_to_the_reader(tmp_path: Path, shards: list[RemoteFile]) -> None:
    cache = ShardCache(tmp_path / "shards", 10_000)
    missing = RemoteFile(shards[0].store, "none.tar", "0" * 64, 1000)
    ahead = ReadAhead(iter([(0, [missing, *shards[:3]])]), cache)
    wait_for(lambda: all(map(cache.holds, shards[:3])))
    ahead.close()
    with pytest.raises(NotFound, match=r"none\.tar"):
        cache.open(missing)


def test_the_loader_reads_ahead_of_its_steps_and_stops_with_them(
    folder: Path, location: str
) -> None:
    there = open_corpora(location, WEIGHTS)
    files = [file for corpus in there.values() for file in corpus.remote]
    cache = ShardCache.from_environment()
    before = set(threading.enumerate())
    steps = (source := loader(there)).steps(source.initial_state())
    next(steps)
    wait_for(lambda: all(map(cache.holds, files)))  # one step doesn't use them all
    steps.close()
    assert set(threading.enumerate()) <= before
    shutil.rmtree(cache.folder)


def test_evicted_shards_are_let_go_of(location: str) -> None:
    corpus = open_corpora(location, WEIGHTS)["coyo"]
    corpus.read(0)
    descriptors = set(os.listdir("/proc/self/fd"))
    ShardCache.from_environment().discard(corpus.remote[0])
    assert corpus.read(1).key == corpus.key(1)  # still open
    corpus.read(10)
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert pixels(corpus.read(0).images[0]).shape == (3, 8, 8)
