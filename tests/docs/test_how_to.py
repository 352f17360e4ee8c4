"""The commands of the how-to pages are run as they stand, in order, against one empty store."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_tutorial import ROOT, commands

PLAN = ROOT / "docs" / "how-to" / "plan-a-run.md"


@pytest.mark.slow
def test_every_command_of_planning_works(tmp_path: Path) -> None:
    found = commands(PLAN)
    assert len(found) >= 5
    printed = []
    for command in found:
        program, *arguments = shlex.split(command)
        assert program == "vila"
        done = subprocess.run(
            [sys.executable, "-m", "vila_ops.cli.main", *arguments],
            cwd=ROOT,
            env={**os.environ, "VILA_STORE": str(tmp_path / "store"), "COLUMNS": "80"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    # The page's table is what the first command prints.
    table = PLAN.read_text().split("    sft: GiB per rank")[1].split("\n\n")[0]
    for line in table.splitlines()[1:]:
        assert line.strip() in printed[0]
