"""A real browser (Debian's Chromium) on a real dashboard, over the story of two runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from watched import Told

from tests.web.dashboards import Dashboard
from tests.web.story import Story, make_story
from vila_core.store import open_store


@pytest.fixture(scope="session")
def told_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story]:
    folder = tmp_path_factory.mktemp("story")
    store = open_store(folder / "store")
    return folder / "store", make_story(store, folder / "scratch")


@pytest.fixture
def told(told_once: tuple[Path, Story], tmp_path: Path) -> Iterator[Told]:
    """A copy of the story for one test alone."""
    source, story = told_once
    shutil.copytree(source, tmp_path / "store")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "VILA_STORE": str(tmp_path / "store")}
    dashboard = Dashboard(env=env, cwd=tmp_path)
    try:
        yield Told(story, open_store(tmp_path / "store"), f"http://127.0.0.1:{dashboard.port}")
    finally:
        dashboard.process.kill()
        dashboard.process.communicate()
