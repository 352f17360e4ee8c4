"""The tutorial on one's own data, its commands as they stand, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import ROOT, commands

TUTORIAL = ROOT / "docs" / "tutorials" / "your-own-data.md"


@pytest.mark.slow
def test_every_command_works(tmp_path: Path) -> None:
    pytest.importorskip("dvc", reason="the extra 'versioning' is not installed")
    place = tmp_path / "project"
    place.mkdir()
    (text,) = re.findall(r"```text\n(.*?)```", TUTORIAL.read_text(), re.S)
    (place / "takedown.txt").write_text(text)
    environment = {
        **os.environ,
        "VILA_STORE": str(tmp_path / "store"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "COLUMNS": "80",
    }
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "tester", f"GIT_{who}_EMAIL": "tester@example.com"}
    printed: dict[str, str] = {}
    for command in commands(TUTORIAL):
        program, *arguments = shlex.split(command)
        assert program in ("vila", "git", "rm")
        whole = [program, *arguments]
        if program == "vila":
            whole = [sys.executable, "-m", "vila_ops.cli.main", *arguments]
        done = subprocess.run(whole, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed[command] = done.stdout
    said = dict(reversed(printed.items()))

    def of(start: str) -> str:
        return next(text for command, text in said.items() if command.startswith(start))

    (told,) = re.findall(r"    (coyo: 1 set aside.*)", TUTORIAL.read_text())
    first = next(text for command, text in printed.items() if "data prepare" in command)
    assert told in first
    assert "<mark>" in (place / "data.html").read_text()
    assert "pretrain" in of("vila data trace")
    assert "train pretrain again from" in of("vila data takedown")
    assert "1 set aside, excluded" in of("vila data prepare")
    assert "mmc4" in of("vila data diff")
    assert "Without one document" in of("vila data log")
