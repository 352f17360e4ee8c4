"""The tutorial on promoting, its commands as they stand, in order, against one store."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from page_commands import ROOT, run_page

TUTORIAL = ROOT / "docs" / "tutorials" / "promote.md"


@pytest.mark.slow
@pytest.mark.xdist_group("store of the quickstart")
def test_every_command_works(tmp_path: Path) -> None:
    """`VILA_TEST_STORE` may name a store where the quickstart has run: then it is a cache hit."""
    store = tmp_path / "store"
    ran = os.environ.get("VILA_TEST_STORE")
    if ran:  # models are registered anew: the page counts versions
        for folder in ("artifacts", "cache"):
            shutil.copytree(Path(ran) / folder, store / folder)
        for path in (store / "cache").glob("*.json"):
            if json.loads(path.read_bytes())["key_parts"]["stage"] == "register":
                path.unlink()
    place = tmp_path / "project"
    place.mkdir()
    (place / "examples").symlink_to(ROOT / "examples")
    environment = {
        **os.environ,
        "VILA_STORE": str(store),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "COLUMNS": "80",
    }
    printed = run_page(TUTORIAL, environment, place)

    def of(start: str) -> str:
        return next(text for command, text in printed.items() if command.startswith(start))

    assert "miniature@2" in of("vila registry list")
    assert "sft.train.seed" in of("vila compare quickstart seed-1 --only-different")
    assert "miniature_vqa" in of("vila compare quickstart seed-1 --paired")
    assert "As good as the champion" in of("vila registry history")
    assert "seed-1" in of("vila lineage")
    assert of("vila registry card").startswith("---\n")
    assert of("vila ask").strip() == "red"
    assert (place / "champion" / "model.safetensors").is_file()
