"""The page of the registry: its commands run, its variables are read, its findings are made."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.registry import Registry, Version, keys
from components.registry.records import MOVES, NOTES
from vila_core.store import open_store, publish
from vila_ops.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "registry.md"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("VILA_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_run_as_they_stand(place: Path) -> None:
    store = open_store(place / "store")
    (place / "model").mkdir()
    (place / "model" / "model.safetensors").write_bytes(b"weights")
    registry = Registry(store)
    artifact = publish(store, place / "model")
    registry.register(Version("miniature", 0, artifact, "r1", "key", {}, {}, {}))
    registry.move("miniature", "candidate", 1, why="x")
    (place / "ann.pem").write_text(keys.create_key(place / "ann-private.pem").public_pem())
    lines = re.findall(r"^    (vila .*)$", PAGE.read_text(), re.M)
    assert len(lines) >= 9
    for line in lines:
        command = shlex.split(line.partition("#")[0])
        result = CliRunner().invoke(app, command[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    told = set(re.findall(r"^\| (.*) \|", PAGE.read_text().split("## What pull writes")[1], re.M))
    names = {name for row in told for name in re.findall(r"`([\w.-]+\.(?:md|json))`", row)}
    found = {path.name for path in (place / "DIR").iterdir()}
    assert found - {"model.safetensors"} <= names
    assert "signed 1 versions and 1 entries" in result.output


def test_its_variables_are_those_that_are_read() -> None:
    code = "".join(path.read_text() for path in (ROOT / "components" / "registry").glob("*.py"))
    read = set(re.findall(r'environ\.get\("(\w+)"\)', code))
    assert read == {name for name in re.findall(r"\b(?:VILA|XDG)_[A-Z_]+\b", PAGE.read_text())}


def test_its_kinds_and_findings_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    for kind in (*MOVES, *NOTES):
        assert f"`{kind}`" in text
    folder = ROOT / "components" / "registry"
    code = "".join((folder / f"{name}.py").read_text() for name in ("verify", "blobs", "signing"))
    code += (folder / "records.py").read_text()
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    table = text.split("## What verify checks")[1].split("Each finding")[0]
    examples = [
        one
        for row in re.findall(r"^\| [^|]+ \| (`.*`) \|$", table, re.M)
        for one in row.strip("`").split("`, `")
    ]
    assert len(examples) >= 10
    for example in examples:
        words = re.sub(r"^(versions|history|aliases)/\S+ |^model.safetensors ", "", example)
        part = re.split(r"\d+|…|candidate|: one of", words)[0].strip(" :,")
        assert part in code, example
