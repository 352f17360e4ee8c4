"""Files that a config names outside of the store are part of the task's key."""

from __future__ import annotations

from pathlib import Path

from components.runtime.cache import task_key
from vila_core.stages.language_model import Config


def key_of(folder: Path) -> str:
    config = Config(source=str(folder))
    return task_key("language_model", "vila_core.stages.language_model", config, {}).key


def test_a_changed_file_changes_the_key(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = key_of(tmp_path)
    assert key_of(tmp_path) == first
    weights.write_bytes(b"other")
    second = key_of(tmp_path)
    assert second != first
    weights.unlink()
    assert key_of(tmp_path) not in (first, second)
    assert key_of(tmp_path / "nowhere") not in (first, second)


def test_the_miniature_reads_nothing_outside() -> None:
    parts = task_key("language_model", "vila_core.stages.language_model", Config(), {}).parts
    assert "outside" not in parts


def test_how_many_workers_prepare_has_is_not_in_its_key() -> None:
    from vila_core.stages.prepare import Config as Prepare

    def key(**values: int) -> str:
        config = Prepare.model_validate(values)
        return task_key("prepare", "vila_core.stages.prepare", config, {}).key

    assert key(workers=1) == key(workers=3) == key()
    assert key(shard_samples=7) != key()
