"""The commands of the page on many machines, as they stand; what they write is as it says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from page_commands import ROOT, commands
from typer.testing import CliRunner

from tests.data.test_data_prepare import tree
from vila_ops.cli.main import app

PAGE = ROOT / "docs" / "how-to" / "prepare-on-many-machines.md"


def test_every_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = commands(PAGE)
    assert len(lines) == 5
    for line in (*lines, "vila data prepare raw/recipe.yaml --to whole"):
        program, *arguments = shlex.split(line)
        assert program == "vila"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}{result.exception}"
    assert tree(tmp_path / "prepared") == tree(tmp_path / "whole")
    assert (tmp_path / "prepared.html").stat().st_size > 10_000
