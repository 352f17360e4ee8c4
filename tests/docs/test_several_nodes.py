"""The commands of the page on several nodes that need no cluster, as they stand."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from page_commands import ROOT, commands, run

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


@pytest.mark.slow
def test_every_command_works(tmp_path: Path) -> None:
    plan, rehearsal = commands(PAGE)
    environment = {**os.environ, "VILA_STORE": str(tmp_path), "COLUMNS": "80"}
    assert "on 32 x" in run(plan, environment)
    quick = [word for override in QUICK for word in ("--set", override)]
    run(f"{rehearsal} {shlex.join(quick)}", environment)
    store = open_store(tmp_path)
    (found,) = [key for key in store.list("runs/") if key.endswith("/nodes.json")]
    assert found.split("/")[3] == "sft"
    (only,) = json.loads(store.read(found))
    assert only["ended"] == "succeeded"
