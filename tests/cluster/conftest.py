from __future__ import annotations

import pytest

pytest.importorskip("kubernetes", reason="the extra 'pipeline' is not installed")
