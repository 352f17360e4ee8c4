from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.web.dashboards import client_of
from tests.web.story import Story, make_story
from vila_core.store import Store, open_store


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story]:
    """The story, in a folder that no test changes."""
    place = tmp_path_factory.mktemp("story")
    return place / "store", make_story(open_store(place / "store"), place / "scratch")


@pytest.fixture
def story(told: tuple[Path, Story]) -> Story:
    return told[1]


@pytest.fixture
def told_store(told: tuple[Path, Story]) -> Store:
    """The store of the story; it may only be read."""
    return open_store(told[0])


@pytest.fixture
def own_store(told: tuple[Path, Story], tmp_path: Path) -> Iterator[Store]:
    """A copy of the story's store that a test may change."""
    shutil.copytree(told[0], tmp_path / "store")
    yield open_store(tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def client(own_store: Store) -> Iterator[TestClient]:
    """A browser at the dashboard of a copy of the story's store."""
    with client_of(own_store) as made:
        yield made
