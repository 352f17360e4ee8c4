from __future__ import annotations

import pytest
from told import Told

from tests.web.story import make_story
from vila_core.store import open_store


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    place = tmp_path_factory.mktemp("story")
    store = open_store(place / "store")
    return Told(store, make_story(store, place / "scratch"))
