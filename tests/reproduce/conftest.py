from pathlib import Path
from typing import Any

import pytest
from tiny_ablation import FINDING, TINY, WriteYaml

from vila_core.jsonio import dumps
from vila_core.store import Store, open_store
from vila_ops.driver.run import drive
from vila_ops.reproduce.config import load_plan
from vila_ops.reproduce.runs import begin


@pytest.fixture
def write(tmp_path: Path) -> WriteYaml:
    """Write a mapping as a YAML file (JSON is YAML) and return its path."""

    def write(name: str, values: Any) -> str:
        path = tmp_path / name
        path.write_text(dumps(values))
        return str(path)

    return write


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str, Path]:
    """A run of a small finding with two seeds: the store, its id, and the folder of its files."""
    folder = tmp_path_factory.mktemp("reproduce")
    size = {**TINY, "variants": {}}
    (folder / "tiny.yaml").write_text(dumps(size))
    (folder / "small-finding.yaml").write_text(dumps(FINDING))
    store = open_store(str(folder / "store"))
    plan = load_plan([str(folder / "small-finding.yaml")], str(folder / "tiny.yaml"), 2)
    run_id = begin(store, plan, runner="inline", name=None, argv=["reproduce"])
    assert drive(store, run_id) == "succeeded"
    return store, run_id, folder
