from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboards import Dashboard

from vila_core.store import Store, open_store


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def dashboards(tmp_path: Path) -> Iterator[list[Dashboard]]:
    """Those that a test starts; none is left behind."""
    started: list[Dashboard] = []
    yield started
    for one in started:
        one.process.kill()
        one.process.communicate()
