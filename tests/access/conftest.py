from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.provider import SECRET, Provider
from vila_core.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the config of a provider reads."""
    monkeypatch.setenv("OIDC_CLIENT", SECRET)
    monkeypatch.setenv("OIDC_SIGN", "k" * 64)
