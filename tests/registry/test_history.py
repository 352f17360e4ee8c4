"""Entries of all kinds in one chain, and chains that were written before there were kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.registry import Registry, Version
from vila_core.errors import Damaged, UserError
from vila_core.jsonio import digest
from vila_core.store import ArtifactRef, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def registry(store: Store) -> Registry:
    registry = Registry(store)
    for run_id in ("r1", "r2"):
        artifact = ArtifactRef(uri="", sha256="a" * 64)
        registry.register(Version("mini", 0, artifact, run_id, "key", {}, {}, {}))
    return registry


def test_notes_stand_in_the_chain_and_move_nothing(registry: Registry) -> None:
    registry.move("mini", "candidate", 1, why="first", who="ann")
    registry.note("mini", "approve", 2, why="looks good", who="bob", alias="champion")
    registry.note("mini", "withdraw", 2, why="it does not", who="bob", evidence={"seen": 3})
    registry.move("mini", "candidate", 2, why="better", forced=True)
    registry.move("mini", "candidate", 1, why="worse", kind="rollback")
    entries = registry.history("mini")
    assert [(e.seq, e.kind, e.version, e.alias, e.before) for e in entries] == [
        (1, "promote", 1, "candidate", None),
        (2, "approve", 2, "champion", None),
        (3, "withdraw", 2, None, None),
        (4, "promote", 2, "candidate", 1),
        (5, "rollback", 1, "candidate", 2),
    ]
    assert [e.who for e in entries[:3]] == ["ann", "bob", "bob"]
    assert [e.forced for e in entries] == [False, False, False, True, False]
    assert [e.moves for e in entries] == [True, False, False, True, True]
    assert [b.previous for b in entries[1:]] == [a.digest() for a in entries[:-1]]
    assert registry.aliases("mini") == {"candidate": 1}


def test_a_rejected_version_waits_for_an_approval(registry: Registry) -> None:
    registry.note("mini", "reject", 2, why="it swears", who="ann")
    with pytest.raises(UserError, match="mini@2 was rejected by ann: it swears\n  fix: vila reg"):
        registry.move("mini", "candidate", 2, why="x")
    registry.move("mini", "candidate", 1, why="of another version it says nothing")
    registry.note("mini", "approve", 2, why="it was the prompt")
    assert registry.move("mini", "candidate", 2, why="x").before == 1
    registry.note("mini", "reject", 1, why="old")
    assert registry.move("mini", "candidate", 1, why="the other is down", forced=True).forced


@pytest.mark.parametrize("why", ["", "  \n"])
def test_what_needs_a_reason(registry: Registry, why: str) -> None:
    registry.move("mini", "candidate", 1, why="")
    with pytest.raises(UserError, match="mini@candidate: a rollback needs a reason"):
        registry.move("mini", "candidate", 1, why=why, kind="rollback")
    with pytest.raises(UserError, match="mini@candidate: force needs a reason"):
        registry.move("mini", "candidate", 1, why=why, forced=True)
    with pytest.raises(UserError, match="mini@1: to reject a version needs a reason"):
        registry.note("mini", "reject", 1, why=why)
    with pytest.raises(UserError, match="mini@7: no such version"):
        registry.note("mini", "approve", 7, why="x")
    assert len(registry.history("mini")) == 1


def old_entry(seq: int, previous: str, after: int, before: int | None) -> dict[str, object]:
    """As entries were stored before there were kinds."""
    return {
        "seq": seq, "alias": "candidate", "before": before, "after": after, "who": "ann",
        "when": "2026-01-01T00:00:00.000+00:00", "why": "x", "evidence": {}, "previous": previous,
    }  # fmt: skip


def test_a_chain_from_before_there_were_kinds_goes_on(store: Store, registry: Registry) -> None:
    first = old_entry(1, "", 1, None)
    second = old_entry(2, digest(first), 2, 1)
    for entry in (first, second):
        store.write(f"registry/mini/history/{entry['seq']}.json", json.dumps(entry).encode())
    third = registry.move("mini", "candidate", 1, why="back", expected=2)
    assert third.previous == digest(second)
    entries = registry.history("mini")
    assert [(e.kind, e.version, e.after, e.forced) for e in entries] == [
        ("promote", 1, 1, False),
        ("promote", 2, 2, False),
        ("promote", 1, 1, False),
    ]
    store.write("registry/mini/history/1.json", json.dumps({**first, "who": "eve"}).encode())
    with pytest.raises(Damaged, match="entry 2 does not follow the one before"):
        registry.history("mini")


def test_a_version_from_before_it_named_its_results_is_read(
    store: Store, registry: Registry
) -> None:
    stored = json.loads(store.read("registry/mini/versions/1.json"))
    old = {k: stored[k] for k in ("model", "artifact", "run_id", "key", "metrics", "evidence")}
    old |= {"number": 3, "lineage": {}, "created_at": "then", "created_by": "ann"}
    store.write("registry/mini/versions/3.json", json.dumps(old).encode())
    version = registry.version("mini", 3)
    assert (version.results, version.signature) == ("", None)
    assert version.digest() == digest(old)
    assert version.artifact.uri.startswith(store.uri)


BAD = [
    (b"{", "is not JSON"),
    (b"\xff", "is not JSON"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"x": NaN}', "is not JSON"),
    (b"[]", "is not a JSON object"),
    (b"{}", "is not "),
    (b'{"kind": "promote"}', "is not an? "),
]


@pytest.mark.parametrize(("data", "message"), BAD)
@pytest.mark.parametrize("place", ["history/1.json", "versions/1.json"])
def test_foreign_records_are_named(
    store: Store, registry: Registry, place: str, data: bytes, message: str
) -> None:
    store.write(f"registry/mini/{place}", data)
    with pytest.raises(Damaged, match=f"registry/mini/{place}: {message}") as found:
        registry.history("mini") if "history" in place else registry.versions("mini")
    assert "fix: vila registry verify" in str(found.value)


def test_a_copied_record_is_not_another_version(store: Store, registry: Registry) -> None:
    store.write("registry/mini/versions/3.json", store.read("registry/mini/versions/1.json"))
    with pytest.raises(Damaged, match=r"is the record of mini@1, not of mini@3"):
        registry.version("mini", 3)


def test_other_files_in_the_folders_are_no_records(store: Store, registry: Registry) -> None:
    for name in ("README", "x.json", "0.json", "-1.json", "1.json.bak", "²" + ".json"):
        store.write(f"registry/mini/versions/{name}", b"")
        store.write(f"registry/mini/history/{name}", b"")
    assert [version.number for version in registry.versions("mini")] == [1, 2]
    assert registry.history("mini") == []
