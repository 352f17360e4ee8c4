from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from components.registry import Registry
from components.runtime import record
from tests.web.story import Story
from vila_core.store import Store
from vila_ops.lineage import LineageIndex
from vila_ops.lineage import index as index_module
from vila_ops.lineage.index import KEY


def opened(store: Store) -> LineageIndex:
    index = LineageIndex(store)
    index.refresh()
    return index


@pytest.fixture
def indexed(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(index_module, "WORTH_WRITING", 1)
    opened(own_store).write()
    assert own_store.exists(KEY)
    return own_store


def test_what_is_known_is_not_read_again(
    indexed: Store, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(indexed).run(story.first.run_id)

    def refuse(*_: object) -> None:
        raise AssertionError("a record was read again")

    for name in ("read_run", "read_version", "read_data"):
        monkeypatch.setattr(index_module, name, refuse)
    index = opened(indexed)
    assert index.run(story.first.run_id) == before
    assert index.version("miniature", 1) is not None
    assert index.data(story.first.data.sha256) is not None


def test_what_changes_is_read_again(indexed: Store, story: Story) -> None:
    index = opened(indexed)
    record.begin_driver(indexed, story.first.run_id)  # as a resume does
    writer = record.AttemptWriter(
        indexed, "other-1129-120000-cccc", "sft", {"stage": "sft", "key": None, "key_parts": None}
    )
    record.create_run(
        indexed,
        {
            "run_id": "other-1129-120000-cccc",
            "name": "other",
            "recipe": "toy",
            "config": {},
            "config_digest": "c" * 64,
            "code_digest": "d" * 64,
            "runner": "inline",
            "tasks": [],
        },
    )
    index.refresh()
    run = index.run("other-1129-120000-cccc")
    assert run is not None
    assert run.attempts[0].status == ""
    writer.finish({"status": "failed", "exit_code": 1, "outputs": {}, "cached_from": None})
    index.refresh()
    run = index.run("other-1129-120000-cccc")
    assert run is not None
    assert run.attempts[0].status == "failed"
    assert any(key == "runs/other-1129-120000-cccc" for key in index.holding("c" * 8))


def test_new_and_tampered_versions_are_seen(indexed: Store) -> None:
    index = opened(indexed)
    version = Registry(indexed).version("miniature", 1)
    Registry(indexed).register(type(version)(**{**vars(version), "key": "e" * 64, "stored": ""}))
    index.refresh()
    assert sorted(index.version_names()) == ["miniature@1", "miniature@2"]
    place = indexed.local_path("registry/miniature/versions/1.json")
    assert place is not None
    place.write_text('{"model": "miniature"}')
    index.refresh()
    assert index.version("miniature", 1) is None
    assert "versions/1.json" in index.unreadable["registry/miniature/versions/1.json"]


def test_what_is_gone_leaves_the_index(indexed: Store, story: Story) -> None:
    place = indexed.local_path(f"runs/{story.second.run_id}")
    assert place is not None
    os.rename(place, Path(indexed.uri.removeprefix("file://")) / "elsewhere")
    index = opened(indexed)
    assert index.run_ids() == [story.first.run_id]


@pytest.mark.parametrize(
    "data",
    [b"", b"no zip", b"PK\x03\x04 broken"],
    ids=["empty", "text", "broken"],
)
def test_a_foreign_index_is_made_again(indexed: Store, story: Story, data: bytes) -> None:
    indexed.write(KEY, data)
    assert opened(indexed).run(story.first.run_id) is not None


def test_an_index_with_foreign_values_is_made_again(indexed: Store, story: Story) -> None:
    import io

    file = io.BytesIO()
    about = json.dumps([[f"runs/{story.first.run_id}", "final", 0, 2]]).encode()
    np.savez_compressed(
        file,
        about=np.frombuffer(about, dtype=np.uint8),
        tables=np.zeros(0, dtype=np.uint8),
        texts=np.frombuffer(b"{}", dtype=np.uint8),
    )
    indexed.write(KEY, file.getvalue())
    index = opened(indexed)
    assert index.run(story.first.run_id) is None  # and is no entry any more
    index.refresh()
    assert index.run(story.first.run_id) is not None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"run_id": 5}', '{"name": "\\ud800"}', "5", "[" * 100_000]
)
def test_foreign_records_are_told_and_no_reason_to_stop(
    own_store: Store, story: Story, text: str
) -> None:
    own_store.write("runs/foreign/run.json", text.encode())
    own_store.write(f"artifacts/{'9' * 64}/manifest.json", text.encode())
    index = opened(own_store)
    assert "runs/foreign" in index.unreadable
    assert index.learn_data("9" * 64) is None
    assert index.run(story.first.run_id) is not None


def test_digests_are_found_by_any_beginning(told_store: Store, story: Story) -> None:
    index = opened(told_store)
    sha256 = story.second.model.sha256
    for digits in (6, 7, 15, 16, 17, 63, 64):
        assert f"runs/{story.second.run_id}" in index.holding(sha256[:digits])
    assert index.holding("0" * 64) == []


def test_many_versions_hide_no_run(own_store: Store, story: Story) -> None:
    """Each version names all that is behind it; who asks for the data wants the runs."""
    registry = Registry(own_store)
    version = registry.version("miniature", 1)
    for number in range(5):
        registry.register(type(version)(**{**vars(version), "key": f"{number:064x}", "stored": ""}))
    index = opened(own_store)
    data = index.holding(story.first.data.sha256)
    assert data[:2] == [f"runs/{run.run_id}" for run in (story.second, story.first)]
    assert not any(key.startswith("registry/") for key in data)
    model = index.holding(story.first.model.sha256)
    assert sum(key.startswith("registry/") for key in model) == 6
    assert model[0].startswith("runs/")
    digits = index.holding(story.first.data.sha256[:12])
    assert digits[0].startswith("runs/")
