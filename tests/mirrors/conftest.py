from __future__ import annotations

from pathlib import Path

import pytest
from news import SECRET, Clock

from tests.web.story import Story, make_story
from vila_core.store import Store, open_store


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Story]:
    """A store with two runs and a version, for tests that only read it."""
    folder = tmp_path_factory.mktemp("story")
    store = open_store(folder / "store")
    return store, make_story(store, folder / "scratch")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret of the targets in `news.settings`."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
