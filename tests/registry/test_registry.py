"""Versions never change, aliases move by compare-and-swap, the history can't be rewritten."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from components.registry import Registry, Version
from vila_core.errors import Conflict, Damaged, StoreError, UserError
from vila_core.store import ArtifactRef, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def registry(store: Store) -> Registry:
    return Registry(store)


def version(run_id: str = "r1", model: str = "mini") -> Version:
    artifact = ArtifactRef(uri="", sha256="a" * 64)
    return Version(model, 0, artifact, run_id, "key", {"vqa/accuracy@0": 0.5}, {}, {})


def test_numbers_count_up_and_values_stay(registry: Registry) -> None:
    first = registry.register(version("r1"))
    second = registry.register(version("r2"))
    assert (first.name, second.name) == ("mini@1", "mini@2")
    assert registry.version("mini", 1) == first
    assert [v.number for v in registry.versions("mini")] == [1, 2]
    assert registry.models() == ["mini"]
    assert first.created_at


def test_registering_again_after_a_crash_gives_the_same_version(registry: Registry) -> None:
    first = registry.register(version())
    assert registry.register(version()) == first
    assert registry.register(replace(version(), key="other")).number == 2


def test_many_registering_at_once_get_a_number_each(registry: Registry) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda n: registry.register(version(f"r{n}")).number, range(12)))
    assert sorted(made) == list(range(1, 13))
    assert {v.run_id for v in registry.versions("mini")} == {f"r{n}" for n in range(12)}


def test_aliases_move_and_leave_a_history(registry: Registry, store: Store) -> None:
    for run_id in ("r1", "r2"):
        registry.register(version(run_id))
    registry.move("mini", "candidate", 1, why="first", expected=None)
    registry.move("mini", "candidate", 2, why="better", expected=1, evidence={"p": 0.01})
    registry.move("mini", "candidate", 1, why="rollback")
    assert registry.aliases("mini") == {"candidate": 1}
    assert registry.resolve("mini@candidate").number == 1
    assert registry.resolve("mini@2").number == 2
    history = registry.history("mini")
    assert [(m.before, m.after, m.why) for m in history] == [
        (None, 1, "first"), (1, 2, "better"), (2, 1, "rollback")
    ]  # fmt: skip
    assert history[1].evidence == {"p": 0.01}
    assert history[1].previous == history[0].digest()
    pointer = json.loads(store.read("registry/mini/aliases/candidate.json"))
    assert pointer == {"version": 1, "seq": 3}


def test_a_move_from_somewhere_else_is_a_conflict(registry: Registry) -> None:
    for run_id in ("r1", "r2"):
        registry.register(version(run_id))
    registry.move("mini", "candidate", 2, why="x")
    with pytest.raises(Conflict, match="mini@candidate stands at version 2, not 1"):
        registry.move("mini", "candidate", 1, why="y", expected=1)
    with pytest.raises(Conflict):
        registry.move("mini", "candidate", 1, why="y", expected=None)
    assert len(registry.history("mini")) == 1


def test_of_moves_at_once_one_wins(registry: Registry) -> None:
    for number in range(6):
        registry.register(version(f"r{number}"))

    def move(to: int) -> bool:
        try:
            registry.move("mini", "candidate", to, why="race", expected=None)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = [
            to for to, good in zip(range(1, 7), pool.map(move, range(1, 7)), strict=True) if good
        ]
    assert len(won) == 1
    assert registry.aliases("mini") == {"candidate": won[0]}
    assert len(registry.history("mini")) == 1


def test_concurrent_moves_all_stand_in_the_history(registry: Registry, store: Store) -> None:
    registry.register(version())
    aliases = [f"alias-{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda alias: registry.move("mini", alias, 1, why="x"), aliases))
    assert sorted(registry.aliases("mini")) == aliases
    assert [move.seq for move in registry.history("mini")] == list(range(1, 9))
    assert len(store.children("registry/mini/aliases")) == 8


@pytest.mark.parametrize("how", ["change", "remove"])
def test_a_rewritten_history_is_found(registry: Registry, store: Store, how: str) -> None:
    registry.register(version())
    for _ in range(3):
        registry.move("mini", "candidate", 1, why="x")
    place = "registry/mini/history/2.json"
    if how == "change":
        value = json.loads(store.read(place))
        store.write(place, json.dumps({**value, "who": "nobody"}).encode())
    else:
        store.delete(place)
    with pytest.raises(Damaged, match="does not follow"):
        registry.history("mini")


def test_a_crash_between_history_and_alias_is_repaired(registry: Registry, store: Store) -> None:
    registry.register(version())
    registry.move("mini", "candidate", 1, why="x")
    store.delete("registry/mini/aliases/candidate.json")
    assert registry.resolve("mini@candidate").number == 1
    registry.move("mini", "other", 1, why="y")
    assert store.exists("registry/mini/aliases/candidate.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mini", "use MODEL@NUMBER or MODEL@ALIAS"),
        ("mimi@1", "did you mean 'mini'"),
        ("mini@7", "no such version; versions: 1"),
        ("mini@candidat", "did you mean 'candidate'"),
        ("mini@x", "there are: candidate"),
    ],
)
def test_unknown_names(registry: Registry, name: str, message: str) -> None:
    registry.register(version())
    registry.move("mini", "candidate", 1, why="x")
    with pytest.raises(UserError, match=message):
        registry.resolve(name)


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "7", "a b"])
def test_names_that_are_none(registry: Registry, name: str) -> None:
    with pytest.raises(UserError, match="can't name a model"):
        registry.register(version(model=name))


def test_an_alias_needs_a_version(registry: Registry) -> None:
    with pytest.raises(UserError, match="no such version; versions: none"):
        registry.move("mini", "candidate", 1, why="x")


def test_errors_of_the_store_come_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="not a directory"):
        Registry(open_store(tmp_path / "file" / "x")).register(version())
