from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import s3_server
from vila_core.store import Store, open_store


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    with s3_server.running() as environment:
        yield environment


@pytest.fixture
def s3_store(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def file_store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_store")
