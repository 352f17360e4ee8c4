"""`vila registry list|show|history|verify|sign|pull|key`, as people and scripts meet them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from components.registry import Registry, Version
from components.registry.certificates import keep_certificate
from vila_core.errors import UserError, VilaError
from vila_core.store import Store, open_store, publish
from vila_ops.cli.main import app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("VILA_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config" / "vila"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "store")
    registry = Registry(store)
    for model in ("mini", "other"):
        for number in range(2):
            folder = tmp_path / f"made-{model}-{number}"
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(bytes([number]) * 100)
            gates = [{"passed": True, "text": "vqa [/bold] is 0.5, at least 0.4 is asked"}]
            registry.register(
                Version(
                    model, 0, publish(store, folder), f"r{number}", "key", {"vqa/acc@0": 0.5},
                    {"passed": True, "gates": gates}, {"tasks": {"sft": {"key": "abc"}}},
                )
            )  # fmt: skip
        registry.move(model, "candidate", 1, why="first [/red] <script>alert(1)</script>")
    return store


def vila(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["registry", *map(str, args)])
    if isinstance(result.exception, VilaError):
        assert result.exception.exit_code == code, result.exception
    else:
        assert result.exit_code == code, result.output
    return result


def told(*args: object) -> dict[str, Any] | list[Any]:
    return json.loads(vila(*args, "--json").stdout)


def test_a_key_is_made_shown_and_trusted(home: Path, tmp_path: Path) -> None:
    missing = vila("key", "show", code=2)
    assert "fix: vila registry key create" in str(missing.exception)
    made = told("key", "create")
    assert isinstance(made, dict)
    assert made["fresh"] is True
    assert told("key", "create") == made | {"fresh": False}
    public = vila("key", "show").stdout
    assert public.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert "PRIVATE" not in public
    (tmp_path / "ann.pem").write_text(public)
    assert "is trusted now, as ann" in vila("key", "trust", tmp_path / "ann.pem").stdout
    assert (home / "trusted-keys" / "ann.pem").is_file()
    shown = told("key", "show")
    assert isinstance(shown, dict)
    assert shown["trusted"] == {made["key_id"]: "ann"}


def test_the_history_fits_80_columns_and_says_all(store: Store) -> None:
    vila("key", "create")
    registry = Registry(store)
    registry.note("mini", "approve", 2, why="looks fine", who="bob", alias="champion")
    registry.move("mini", "candidate", 2, why="it must be", who="ann", forced=True)
    registry.move("mini", "candidate", 1, why="worse", kind="rollback", who="ann")
    text = vila("history", "mini").stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "ann: rollback candidate 2 -> 1" in text
    assert "ann: promote candidate 1 -> 2 FORCED" in text
    assert "bob: approve version 2 for champion" in text
    assert "promote candidate new -> 1" in text
    assert "first [/red] <script>alert(1)</script>" in text
    assert text.index("rollback") < text.index("approve")
    assert text.count("is signed by you") == 3
    assert text.count("is not signed") == 1
    entries = told("history", "mini")
    assert [entry["kind"] for entry in entries] == ["promote", "approve", "promote", "rollback"]
    assert entries[2]["forced"] is True
    assert entries[3]["signed"]["state"] == "valid"
    missing = vila("history", "mimi", code=2)
    assert "registered: mini, other" in str(missing.exception)


def test_a_version_is_shown_with_signature_lineage_and_history(store: Store) -> None:
    text = vila("show", "mini@candidate").stdout
    for part in ("mini@1", "is not signed", "made by sft", "vqa [/bold] is 0.5", "new -> 1", "r0"):
        assert part in text
    value = told("show", "mini@1")
    assert isinstance(value, dict)
    assert value["signed"]["state"] == "unsigned"
    assert value["aliases"] == ["candidate"]
    assert [entry["seq"] for entry in value["history"]] == [1]
    assert "first [/red]" in vila("show", "mini").stdout


def test_a_version_is_shown_with_the_proofs_of_its_exports(store: Store) -> None:
    version = Registry(store).version("mini", 1)
    for layout, difference in (("vila15", 1e-6), ("llava", 1e-3)):
        rows = [{"max_abs_difference": difference, "tolerance": 1e-5}]
        keep_certificate(store, version, {"layout": layout, "prompts": rows})
    text = vila("show", "mini@1").stdout
    assert re.search(r"export as llava +differs *\n", text)
    assert re.search(r"export as vila15 +certified *\n", text)
    exports = told("show", "mini@1")["exports"]
    assert {layout: proof["holds"] for layout, proof in exports.items()} == {
        "llava": False,
        "vila15": True,
    }
    place = "registry/mini/certificates/1/llava.json"
    store.write(place, b"[]")
    assert f"{place} is no certificate" in " ".join(vila("show", "mini@1").stdout.split())


def test_verify_says_what_is_wrong_and_fails(store: Store, tmp_path: Path) -> None:
    text = vila("verify").stdout
    assert "read: models 2, versions 4, entries of the history 2, files 2 (0.0 MB)" in text
    assert "you trust no key" in text
    assert text.endswith("all is as it was\n")
    path = tmp_path / "store" / "registry" / "mini" / "history" / "1.json"
    path.chmod(0o644)
    path.write_text("{}")
    text = vila("verify", "mini", code=1).stdout
    assert "wrong registry/mini/history/1.json " in text
    assert "      fix: restore the file" in text
    assert text.endswith("1 wrong\n")
    found = json.loads(vila("verify", "--json", code=1).stdout)
    assert found["ok"] is False
    assert [one["key"] for one in found["findings"]] == ["registry/mini/history/1.json"]
    assert found["findings"][0].keys() == {"model", "key", "what", "fix", "level"}
    assert "all is as it was" in vila("verify", "other").stdout


def test_a_broken_model_does_not_hide_the_others(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "store" / "registry" / "mini" / "versions" / "2.json"
    path.chmod(0o644)
    path.write_text("{")
    result = vila("list", code=1)
    assert "other@1" in result.stdout
    assert "mini@1" not in result.stdout
    assert "registry/mini/versions/2.json: is not JSON" in result.stderr
    listed = json.loads(vila("list", "--json", code=1).stdout)
    assert [row["name"] for row in listed] == ["other@2", "other@1"]


def test_signing_what_was_made_without_a_key(store: Store) -> None:
    vila("key", "create")
    vila("verify", code=1)
    pulled = vila("pull", "mini@candidate", code=2)
    assert isinstance(pulled.exception, UserError)
    assert "vila registry sign mini" in str(pulled.exception)
    assert told("sign", "mini@1") == {
        "model": "mini", "versions": 1, "entries": 1,
        "key_id": told("key", "show")["own"]["key_id"],  # type: ignore[call-overload]
    }  # fmt: skip
    vila("pull", "mini@candidate")
    assert "signed 1 versions and 0 entries" in vila("sign", "mini").stdout
    assert "signed 2 versions and 1 entries" in vila("sign", "other").stdout
    assert "signatures: 6 valid" in vila("verify").stdout
    vila("sign", "nobody", code=2)


def test_what_was_changed_is_not_signed(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "store" / "registry" / "mini" / "versions" / "1.json"
    value = json.loads(path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps({**value, "metrics": {"vqa/acc@0": 1.0}}))
    refused = vila("sign", "mini", code=2)
    assert "was changed after entry 1 of the history" in str(refused.exception)


def test_pulling_into_a_folder_named_like_the_version(store: Store, tmp_path: Path) -> None:
    assert "mini@1 is in mini-1\n" in vila("pull", "mini@candidate").stdout
    assert (tmp_path / "mini-1" / "model.safetensors").read_bytes() == bytes(100)
    assert told("pull", "mini@1") == {"name": "mini@1", "path": "mini-1", "fresh": False}
    assert "did you mean 'candidate'" in str(vila("pull", "mini@candidat", code=2).exception)
