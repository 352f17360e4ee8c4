"""The tutorial's commands are run as they stand, in order, against one store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from page_commands import ROOT, run, run_page

TUTORIAL = ROOT / "docs" / "tutorials" / "quickstart.md"


@pytest.mark.slow
@pytest.mark.xdist_group("store of the quickstart")
def test_every_command_of_the_tutorial_works(tmp_path: Path) -> None:
    """`VILA_TEST_STORE` may name a store where the quickstart has run: then all are cache hits."""
    store = os.environ.get("VILA_TEST_STORE") or str(tmp_path / "store")
    environment = {**os.environ, "VILA_STORE": store}
    if "VILA_TEST_STORE" in os.environ:  # its versions are signed by the key of who made it
        del environment["XDG_CONFIG_HOME"]
    printed = run_page(TUTORIAL, environment)
    assert len(printed) >= 8
    for command, text in printed.items():
        if command.startswith("vila why"):
            assert "train.lr" in text
        if command.startswith("vila ask"):
            assert text.strip() == "red"

    shown = json.loads(run("vila show quickstart --json", environment))
    metrics = shown["metrics"]
    gap = metrics["miniature_vqa/accuracy@0"] - metrics["miniature_vqa/blind_accuracy@0"]
    assert gap >= 0.25
    single = metrics["miniature_single/accuracy@0"] - metrics["miniature_single/blind_accuracy@0"]
    assert single >= 0.40
    assert metrics["miniature_digits/accuracy@0"] >= 0.80
    tasks = {task["name"]: task["metrics"] for task in shown["tasks"]}
    after = tasks["evaluate-pretrain"]
    assert after["miniature_icl/accuracy@4"] - after["miniature_icl/accuracy@0"] >= 0.35
    before = tasks["evaluate-base"]["miniature_knowledge/accuracy@0"]
    assert before - metrics["miniature_knowledge/accuracy@0"] <= 0.05
