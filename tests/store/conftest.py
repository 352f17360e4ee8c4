from __future__ import annotations

from pathlib import Path

import pytest

from tests.ceph_server import REAL
from vila_core.store import Store, open_store


@pytest.fixture
def file_store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture(params=["file", "s3", REAL])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_store")
