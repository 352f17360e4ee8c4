from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Serving, serving

from tests.eval.tiny import write_tiny_vila


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that reads any text, by a chat template of its own."""
    return write_tiny_vila(tmp_path_factory.mktemp("models") / "tiny", positions=512)


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Serving]:
    with serving(tiny) as one:
        yield one
