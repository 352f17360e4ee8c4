"""The commands of the page on comparing run as they stand; its addresses are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from page_commands import ROOT, commands
from typer.testing import CliRunner

from tests.compare.evaluated import answers, make_run
from vila_core.store import open_store
from vila_ops.cli.main import app
from vila_ops.web.app import create_app

PAGE = ROOT / "docs" / "how-to" / "compare-runs.md"


def test_the_commands_of_the_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    make_run(store, 1, answers([0.0] * 20 + [1.0] * 20, task="pope"), name="before")
    make_run(store, 2, answers([1.0] * 40, task="pope"), name="after")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VILA_STORE", str(tmp_path / "store"))
    found = commands(PAGE)
    assert len(found) == 5
    printed = []
    for command in found:
        program, *arguments = shlex.split(command)
        assert program == "vila"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        printed.append(done.output)
    assert "sft.seed" in printed[0]
    assert "better" in printed[1]
    assert "5 of 20 questions of 40" in printed[2]
    assert all("/compare?run=before-" in text for text in printed[:3])
    assert "better" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "metrics.csv").read_text().startswith("kind,name,run,value")


def test_the_addresses_of_the_page_are_there(tmp_path: Path) -> None:
    paths = create_app(open_store(tmp_path / "store")).openapi()["paths"]
    named = set(re.findall(r"`(/api/v1/compare[a-z/]*)`", PAGE.read_text()))
    assert named
    assert named <= set(paths)
