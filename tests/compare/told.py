"""The story of `tests/web/story.py` in a store of its own."""

from __future__ import annotations

from dataclasses import dataclass

from tests.web.story import Story
from vila_core.store import Store


@dataclass(frozen=True)
class Told:
    """The story; nothing may be changed in its store."""

    store: Store
    story: Story
