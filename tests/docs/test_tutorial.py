"""The tutorial's commands are run as they stand, in order, against one store."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorials" / "quickstart.md"


def commands(page: Path) -> list[str]:
    """Return the lines after `$` in a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


@pytest.mark.slow
def test_every_command_of_the_tutorial_works(tmp_path: Path) -> None:
    """`VILA_TEST_STORE` may name a store where the quickstart has run: then all are cache hits."""
    store = os.environ.get("VILA_TEST_STORE") or str(tmp_path / "store")
    environment = {**os.environ, "VILA_STORE": store}
    if "VILA_TEST_STORE" in os.environ:  # its versions are signed by the key of who made it
        del environment["XDG_CONFIG_HOME"]
    assert len(commands(TUTORIAL)) >= 8
    for command in commands(TUTORIAL):
        program, *arguments = shlex.split(command)
        assert program == "vila"
        done = subprocess.run(
            [sys.executable, "-m", "vila_ops.cli.main", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("vila why"):
            assert "train.lr" in done.stdout
        if command.startswith("vila ask"):
            assert done.stdout.strip() == "red"

    shown = subprocess.run(
        [sys.executable, "-m", "vila_ops.cli.main", "show", "quickstart", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    run = json.loads(shown.stdout)
    metrics = run["metrics"]
    gap = metrics["miniature_vqa/accuracy@0"] - metrics["miniature_vqa/blind_accuracy@0"]
    assert gap >= 0.25
    single = metrics["miniature_single/accuracy@0"] - metrics["miniature_single/blind_accuracy@0"]
    assert single >= 0.40
    assert metrics["miniature_digits/accuracy@0"] >= 0.80
    tasks = {task["name"]: task["metrics"] for task in run["tasks"]}
    after = tasks["evaluate-pretrain"]
    assert after["miniature_icl/accuracy@4"] - after["miniature_icl/accuracy@0"] >= 0.35
    before = tasks["evaluate-base"]["miniature_knowledge/accuracy@0"]
    assert before - metrics["miniature_knowledge/accuracy@0"] <= 0.05
