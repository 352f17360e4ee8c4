"""What the page on `vila reproduce` shows is what the program takes."""

import re
from pathlib import Path

from page_commands import ROOT
from typer.testing import CliRunner

from vila_ops.cli.main import app
from vila_ops.reproduce.config import finding_files, load_plan
from vila_ops.reproduce.grid import build_grid

PAGE = (ROOT / "docs" / "how-to" / "reproduce.md").read_text()


def test_the_page_names_every_finding_and_no_other():
    table = PAGE.split("| name |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == set(finding_files())


def test_the_ablation_of_the_page_can_be_run(tmp_path: Path):
    block = PAGE.split("    title: More warm-up")[1].split("\n\nAn arm")[0]
    path = tmp_path / "mine.yaml"
    path.write_text("title: More warm-up" + re.sub(r"^    ", "", block, flags=re.MULTILINE))
    plan = load_plan([str(path)], "miniature", 3)
    grid = build_grid(plan)
    assert grid.configs["pretrain-long-s0"]["train"]["warmup_steps"] == 100
    assert grid.configs["pretrain-short-s0"]["train"]["warmup_steps"] != 100


def test_the_options_of_the_page_are_those_of_the_command():
    help_text = CliRunner().invoke(app, ["reproduce", "--help"]).output
    for option in re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE):
        assert option in help_text
