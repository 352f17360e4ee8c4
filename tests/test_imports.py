"""Every module can be the first that is imported: no two of them wait for each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("components/registry", "vila_ops/registry", "vila_ops/web")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)
EACH_FIRST = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [one for one in sys.modules if one.split(".")[0] in ("components", "vila_ops")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""


@pytest.mark.slow
def test_every_module_can_come_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH_FIRST, *STAGES], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
