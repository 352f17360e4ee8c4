"""Fixtures of the tests of the data path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vila_core.data.dedupe import hamming, judge, seen


@pytest.fixture(scope="module")
def small_levels() -> Iterator[None]:
    """Tables of deduplication in levels of a few rows, so that small examples fill several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_TAIL", 4)
        patch.setattr(hamming, "_GROWTH", 3)
        patch.setattr(hamming, "_AT_ONCE", 7)
        patch.setattr(seen, "_RECENT", 3)
        patch.setattr(seen, "_GROWTH", 2)
        patch.setattr(judge, "_BATCH", 6)
        yield
