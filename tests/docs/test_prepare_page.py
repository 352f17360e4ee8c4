"""The config on the page about preparing is one that prepare takes."""

from __future__ import annotations

import re

import yaml
from page_commands import ROOT

from vila_core.config import validate
from vila_core.stages.prepare import Config

PAGE = ROOT / "docs" / "how-to" / "prepare-corpora.md"


def test_the_config_is_valid_and_every_key_of_the_table_exists() -> None:
    text = PAGE.read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    config = validate(Config, yaml.safe_load(block)["prepare"], where=PAGE.name)
    assert [corpus.name for corpus in config.corpora] == ["mmc4", "coyo"]
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    keys = re.findall(r"`([\w\[\].]+)`", " ".join(table))
    assert len(keys) >= 10
    known = set(Config.model_fields) | {
        f"corpora[].{name}" for name in type(config.corpora[0]).model_fields
    }
    assert set(keys) <= known
