"""The commands of the how-to pages are run as they stand, in order, against one empty store."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import ROOT, commands, run_page

PLAN = ROOT / "docs" / "how-to" / "plan-a-run.md"
VERSIONS = ROOT / "docs" / "how-to" / "version-data-with-dvc.md"


@pytest.mark.slow
def test_every_command_of_planning_works(tmp_path: Path) -> None:
    environment = {**os.environ, "VILA_STORE": str(tmp_path / "store"), "COLUMNS": "80"}
    printed = list(run_page(PLAN, environment).values())
    assert len(printed) >= 5
    # The page's table is what the first command prints.
    table = PLAN.read_text().split("    sft: GiB per rank")[1].split("\n\n")[0]
    for line in table.splitlines()[1:]:
        assert line.strip() in printed[0]


@pytest.mark.slow
def test_every_command_of_versioning_works(tmp_path: Path) -> None:
    pytest.importorskip("dvc", reason="the extra 'versioning' is not installed")
    found = commands(VERSIONS)
    assert len(found) >= 12
    place = tmp_path / "project"
    place.mkdir()
    text = VERSIONS.read_text()
    (place / "small.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "tester", f"GIT_{who}_EMAIL": "tester@example.com"}
    printed = {}
    for command in found:
        program, *arguments = shlex.split(command)
        assert program in ("vila", "git", "rm", "mv")
        words = [sys.executable, "-m", "vila_ops.cli.main"] if program == "vila" else [program]
        done = subprocess.run(
            [*words, *arguments], cwd=place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed[command] = done.stdout
    assert "changed (vila data add)" in printed["vila data status"]
    log = printed["vila data log data/corpora"]
    assert [line.strip() for line in log.splitlines()[1::2]] == ["More captions", "First corpora"]
    manifest = json.loads((place / "data/corpora/coyo/manifest.json").read_text())
    assert manifest["samples"] == 120  # of the first version again
