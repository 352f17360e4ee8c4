"""The reference of gates: its files parse, its keys are all there are, its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from page_commands import ROOT
from typer.testing import CliRunner

from components.registry.gates import conditions
from components.registry.gates.files import GateFile, load_gates, names
from vila_core.config import Frozen, validate
from vila_ops.cli.main import app

PAGE = (ROOT / "docs" / "reference" / "gates.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_are_files_of_gates(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    found = load_gates(str(tmp_path / "mine.yaml"))
    assert len(found.gates) == len(yaml.safe_load(text)["gates"])


def test_the_first_example_has_every_kind() -> None:
    gates = validate(GateFile, yaml.safe_load(EXAMPLES[0]), where="gates.md").gates
    kinds = {kind for gate in gates for kind in conditions.KINDS if getattr(gate, kind) is not None}
    assert kinds == set(conditions.KINDS)


def test_every_key_is_told() -> None:
    models = [
        one
        for one in vars(conditions).values()
        if isinstance(one, type) and issubclass(one, Frozen)
    ]
    keys = {key for model in models for key in model.model_fields}
    assert {key for key in keys if f"`{key}" not in PAGE and f"{key}:" not in PAGE} == set()


def test_files_that_come_along_are_gates() -> None:
    assert {"miniature", "miniature-champion"} <= set(names())
    for name in names():
        assert load_gates(name).gates


def test_every_command_exists() -> None:
    lines = re.findall(r"^    (vila .*)$", PAGE, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        words = [word for word in shlex.split(line)[1:] if not word.startswith("-")]
        command = words[: 2 if words[0] == "registry" else 1]
        done = CliRunner().invoke(app, [*command, "--help"])
        assert done.exit_code == 0, line
        for option in re.findall(r"--[a-z-]+", line):
            assert option in done.stdout
