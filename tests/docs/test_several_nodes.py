"""The commands of the page on several nodes that need no cluster, as they stand."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import ROOT, commands

from vila_core.store import open_store

PAGE = ROOT / "docs" / "how-to" / "train-on-several-nodes.md"
QUICK = (
    "prepare.miniature={captions: 60, documents: 40, conversations: 40, instructions: 60, "
    "eval_items: 2, eval_digits: 10}",
    "vision_tower.train={steps: 4, lr: 0.001}",
    "language_model.train={steps: 4, lr: 0.001}",
    "align.train={steps: 4, lr: 0.001}",
    "pretrain.train={steps: 4, lr: 0.001}",
    "sft.train.steps=4",
    "sft.train.warmup_steps=1",
)
"""Beside what the page says: a quickstart that learns nothing, for time."""


def run(command: str, store: Path, *more: str) -> str:
    program, *arguments = shlex.split(command)
    assert program == "vila"
    done = subprocess.run(
        [sys.executable, "-m", "vila_ops.cli.main", *arguments, *more],
        cwd=ROOT,
        env={**os.environ, "VILA_STORE": str(store), "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_command_works(tmp_path: Path) -> None:
    plan, rehearsal = commands(PAGE)
    assert "on 32 x" in run(plan, tmp_path)
    quick = [word for override in QUICK for word in ("--set", override)]
    run(rehearsal, tmp_path, *quick)
    store = open_store(tmp_path)
    (found,) = [key for key in store.list("runs/") if key.endswith("/nodes.json")]
    assert found.split("/")[3] == "sft"
    (only,) = json.loads(store.read(found))
    assert only["ended"] == "succeeded"
