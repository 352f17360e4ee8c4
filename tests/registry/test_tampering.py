"""Whatever is changed in a registry is found, named, and stops nothing else from being read."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.registry import Registry, Version, keys
from components.registry.records import unsigned
from components.registry.signatures import Signatures
from components.registry.signing import BAD, UNKNOWN, UNSIGNED, VALID
from components.registry.verify import NOTE, Finding, Findings, check, verified_version
from vila_core.errors import Damaged, UserError, VilaError
from vila_core.jsonio import digest
from vila_core.store import Store, open_store, publish


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    keys.own_key(create=True)
    return tmp_path / "config" / "vila"


@dataclass
class Made:
    """A registry of two models, with three versions and five entries of `mini`."""

    store: Store
    root: Path

    def path(self, key: str) -> Path:
        path = self.root / key
        if path.exists():
            path.chmod(0o644)
        return path

    def entry(self, seq: int) -> dict[str, Any]:
        return json.loads(self.path(f"registry/mini/history/{seq}.json").read_text())

    def put(self, key: str, value: Any) -> None:
        self.path(key).write_text(json.dumps(value))

    def check(self) -> Findings:
        return check(self.store, "mini")

    def wrong(self) -> dict[str, Finding]:
        return {one.key: one for one in self.check().findings if one.level != NOTE}

    @property
    def artifact(self) -> str:
        return Registry(self.store).version("mini", 2).artifact.sha256


@pytest.fixture
def made(tmp_path: Path) -> Made:
    store = open_store(tmp_path / "store")
    registry = Registry(store)
    for model, count in (("mini", 3), ("other", 1)):
        for number in range(count):
            folder = tmp_path / f"{model}-{number}"
            (folder / "below").mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(bytes([number]) * 1000)
            (folder / "below" / "config.json").write_text("{}")
            results = tmp_path / f"results-{model}-{number}"
            results.mkdir()
            (results / "records.jsonl").write_text(f"{model} {number}")
            registry.register(
                Version(
                    model, 0, publish(store, folder), f"r{number}", "key", {"a@0": 0.5}, {}, {},
                    results=publish(store, results).sha256,
                )
            )  # fmt: skip
    registry.move("mini", "candidate", 1, why="first")
    registry.move("mini", "champion", 1, why="first")
    registry.note("mini", "approve", 2, why="fine")
    registry.move("mini", "candidate", 2, why="better")
    registry.move("mini", "candidate", 1, why="worse", kind="rollback")
    registry.move("other", "candidate", 1, why="first")
    return Made(store, tmp_path / "store")


def test_all_is_as_it_was(made: Made) -> None:
    found = check(made.store)
    assert found.ok
    assert found.findings == []
    assert (found.models, found.versions, found.entries) == (["mini", "other"], 4, 6)
    assert found.files == 3 * 2 + 4  # other's model is that of mini@1
    assert found.signatures == {VALID: 10}
    assert verified_version(made.store, "mini@candidate").number == 1
    assert json.loads(json.dumps(found.as_json()))["ok"] is True


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_in_weights(made: Made) -> None:
    key = f"artifacts/{made.artifact}/model.safetensors"
    flip(made.path(key))
    (finding,) = made.wrong().values()
    assert (finding.key, finding.what) == (key, "was changed: it does not match its digest")
    assert "restore it" in finding.fix


def test_records_of_evaluations_are_checked_too(made: Made) -> None:
    results = Registry(made.store).version("mini", 3).results
    key = f"artifacts/{results}/records.jsonl"
    made.path(key).write_text("better")
    assert made.wrong().keys() == {key}


def test_every_bad_file_is_told(made: Made) -> None:
    lead = f"artifacts/{made.artifact}"
    made.path(f"{lead}/model.safetensors").unlink()
    flip(made.path(f"{lead}/below/config.json"))
    made.path(f"{lead}/pickled.bin").write_bytes(b"")
    assert {key.removeprefix(f"{lead}/"): one.what for key, one in made.wrong().items()} == {
        "model.safetensors": "is missing",
        "below/config.json": "was changed: it does not match its digest",
        "pickled.bin": "is not in the manifest: it was put there",
    }


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_manifest(made: Made, how: str) -> None:
    key = f"artifacts/{made.artifact}/manifest.json"
    if how == "gone":
        made.path(key).unlink()
    else:
        flip(made.path(key))
    (finding,) = made.wrong().values()
    assert finding.key == key
    assert {"gone": "is missing", "changed": "was changed"}[how] in finding.what


def test_a_changed_version_record(made: Made) -> None:
    """Its own signature tells, and the history, which names its digest."""
    key = "registry/mini/versions/2.json"
    value = json.loads(made.path(key).read_text())
    made.put(key, {**value, "metrics": {"a@0": 0.99}})
    texts = [one.what for one in made.check().findings if one.key == key]
    assert len(texts) == 2
    assert "was changed after entry 3 of the history named it" in texts
    assert any("its content was changed after it was signed" in text for text in texts)
    for name in ("mini@2",):
        with pytest.raises(Damaged, match="its record was changed after entry 3"):
            verified_version(made.store, name, allow_unsigned=True)
    assert verified_version(made.store, "mini@candidate").number == 1


def test_a_changed_version_that_nobody_promoted(made: Made) -> None:
    key = "registry/mini/versions/3.json"
    value = json.loads(made.path(key).read_text())
    made.put(key, {**value, "created_by": "eve"})
    assert made.wrong().keys() == {key}
    with pytest.raises(Damaged, match="mini@3: its content was changed after it was signed"):
        verified_version(made.store, "mini@3", allow_unsigned=True)


def test_another_artifact_in_a_version_is_unsigned_weights(made: Made) -> None:
    """The attack that matters: other weights under a good name, signature taken out."""
    key = "registry/mini/versions/3.json"
    value = json.loads(made.path(key).read_text())
    made.put(key, unsigned(value) | {"artifact": {"sha256": made.artifact}})
    assert made.wrong()[key].what == "is not signed"
    with pytest.raises(UserError, match=r"mini@3: is not signed.\n  fix: whoever knows"):
        verified_version(made.store, "mini@3")


def test_a_missing_version(made: Made) -> None:
    made.path("registry/mini/versions/2.json").unlink()
    wrong = made.wrong()
    assert wrong.keys() == {"registry/mini/versions/2.json"}
    made.path("registry/mini/versions/3.json").unlink()
    assert (
        "entry 3 of the history is about it" in made.wrong()["registry/mini/versions/2.json"].what
    )


def rechain(made: Made, start: int) -> None:
    """Do as somebody who can write the store, and has no key: make all digests fit again."""
    previous = digest(unsigned(made.entry(start - 1))) if start > 1 else ""
    seq = start
    while made.path(f"registry/mini/history/{seq}.json").exists():
        value = made.entry(seq) | {"previous": previous, "seq": seq}
        made.put(f"registry/mini/history/{seq}.json", value)
        previous = digest(unsigned(value))
        seq += 1


def test_a_changed_entry(made: Made) -> None:
    made.put("registry/mini/history/2.json", made.entry(2) | {"who": "nobody"})
    wrong = made.wrong()
    assert "changed after it was signed" in wrong["registry/mini/history/2.json"].what
    assert "does not follow entry 2" in wrong["registry/mini/history/3.json"].what
    with pytest.raises(Damaged, match="does not follow the one before"):
        verified_version(made.store, "mini@candidate")


def test_a_changed_last_entry_has_none_after_it_but_a_signature(made: Made) -> None:
    made.put("registry/mini/history/5.json", made.entry(5) | {"version": 3})
    wrong = made.wrong()
    assert "changed after it was signed" in wrong["registry/mini/history/5.json"].what
    assert "was changed by hand" in wrong["registry/mini/aliases/candidate.json"].what
    assert "was changed after entry 5" in wrong["registry/mini/versions/3.json"].what
    with pytest.raises(Damaged):
        verified_version(made.store, "mini@candidate", allow_unsigned=True)


def test_a_removed_entry(made: Made) -> None:
    made.path("registry/mini/history/3.json").unlink()
    assert made.wrong().keys() == {"registry/mini/history/3.json"}
    assert (
        made.wrong()["registry/mini/history/3.json"].what == "is missing: those after it are there"
    )
    with pytest.raises(Damaged):
        Registry(made.store).history("mini")


def test_a_truncated_history(made: Made) -> None:
    for seq in (4, 5):
        made.path(f"registry/mini/history/{seq}.json").unlink()
    (finding,) = made.wrong().values()
    assert finding.key == "registry/mini/history/5.json"
    assert "alias candidate was moved by entry 5" in finding.what


def test_an_inserted_entry(made: Made) -> None:
    for seq in (5, 4, 3):
        shutil.copy(
            made.path(f"registry/mini/history/{seq}.json"),
            made.path(f"registry/mini/history/{seq + 1}.json"),
        )
    made.put("registry/mini/history/3.json", made.entry(2) | {"why": "inserted", "seq": 3})
    wrong = made.wrong()
    assert "says that it is entry 3: it was moved here" in [
        one.what for one in made.check().findings if one.key == "registry/mini/history/4.json"
    ]
    assert {f"registry/mini/history/{n}.json" for n in (3, 4, 5, 6)} <= wrong.keys()


def test_entries_in_another_order(made: Made) -> None:
    second, third = made.entry(2), made.entry(3)
    made.put("registry/mini/history/2.json", third)
    made.put("registry/mini/history/3.json", second)
    assert {f"registry/mini/history/{n}.json" for n in (2, 3, 4)} <= made.wrong().keys()


def test_a_chain_hashed_anew_without_the_key(made: Made) -> None:
    made.put("registry/mini/history/2.json", made.entry(2) | {"why": "forged"})
    rechain(made, 3)
    Registry(made.store).history("mini")  # digests alone don't tell
    wrong = made.wrong()
    assert wrong.keys() == {f"registry/mini/history/{n}.json" for n in (2, 3, 4, 5)}
    assert all("changed after it was signed" in one.what for one in wrong.values())
    with pytest.raises(Damaged, match="the entry that put mini@candidate where it is"):
        verified_version(made.store, "mini@candidate", allow_unsigned=True)


def test_a_chain_signed_anew_by_a_stranger(made: Made, tmp_path: Path) -> None:
    stranger = keys.create_key(tmp_path / "stranger.pem")
    made.put("registry/mini/history/5.json", unsigned(made.entry(5)) | {"version": 1, "why": "x"})
    assert made.wrong()["registry/mini/history/5.json"].what == "is not signed"
    Signatures(made.store, "mini").add(Registry(made.store).history("mini")[4], stranger)
    finding = made.wrong()["registry/mini/history/5.json"]
    assert stranger.key_id[:16] in finding.what
    assert "vila registry key trust" in finding.fix
    assert made.check().signatures == {VALID: 7, UNKNOWN: 1}
    with pytest.raises(UserError, match="which is not trusted"):
        verified_version(made.store, "mini@candidate")
    assert verified_version(made.store, "mini@candidate", allow_unsigned=True).number == 1
    (tmp_path / "public.pem").write_text(stranger.public_pem())
    keys.trust(tmp_path / "public.pem", "friend")
    assert made.check().ok


def test_an_entry_that_somebody_appended(made: Made) -> None:
    """With a right chain and an alias file to match; but nobody trusted signed it."""
    last = made.entry(5)
    value = unsigned(last) | {
        "seq": 6, "previous": digest(unsigned(last)), "version": 2, "kind": "promote",
        "version_digest": Registry(made.store).version("mini", 2).digest(),
    }  # fmt: skip
    made.put("registry/mini/history/6.json", value)
    made.put("registry/mini/aliases/candidate.json", {"version": 2, "seq": 6})
    assert made.wrong().keys() == {"registry/mini/history/6.json"}
    with pytest.raises(UserError, match="the entry that put mini@candidate where it is: is not si"):
        verified_version(made.store, "mini@candidate")
    assert verified_version(made.store, "mini@champion").number == 1


def test_an_alias_file_moved_by_hand(made: Made) -> None:
    key = "registry/mini/aliases/champion.json"
    made.put(key, {"version": 2, "seq": 2})
    assert "it says version 2, entry 2 of the history says promote champion to 1" in (
        made.wrong()[key].what
    )
    made.put(key, {"version": 2, "seq": 4})
    assert "was changed by hand" in made.wrong()[key].what
    assert Registry(made.store).resolve("mini@champion").number == 1  # the history is the truth


@pytest.mark.parametrize("value", [[], {}, {"version": "1", "seq": 1}, {"version": 1, "seq": True}])
def test_an_alias_file_of_somebody_else(made: Made, value: Any) -> None:
    key = "registry/mini/aliases/champion.json"
    made.put(key, value)
    assert "is not an alias" in made.wrong()[key].what
    Registry(made.store).move("mini", "champion", 2, why="x")
    assert made.check().ok


def test_what_a_crash_leaves_is_a_note(made: Made) -> None:
    made.put("registry/mini/aliases/candidate.json", {"version": 2, "seq": 4})
    made.path("registry/mini/aliases/champion.json").unlink()
    found = made.check()
    assert found.ok
    assert [(one.key, one.level) for one in found.findings] == [
        ("registry/mini/aliases/candidate.json", NOTE),
        ("registry/mini/aliases/champion.json", NOTE),
    ]
    Registry(made.store).move("mini", "third", 1, why="x")
    assert made.check().findings == []


@pytest.mark.parametrize("place", ["versions/3.json", "history/4.json"])
def test_a_deleted_signature(made: Made, place: str) -> None:
    key = f"registry/mini/{place}"
    made.put(key, unsigned(json.loads(made.path(key).read_text())))
    (finding,) = made.wrong().values()
    assert (finding.key, finding.what) == (key, "is not signed")
    assert "vila registry sign mini" in finding.fix
    assert made.check().signatures[UNSIGNED] == 1


def test_a_foreign_signature(made: Made) -> None:
    value = json.loads(made.path("registry/mini/versions/3.json").read_text())
    other = json.loads(made.path("registry/mini/versions/2.json").read_text())["signature"]
    for signature, text in (
        ({}, "is not a Sigstore bundle"),
        ({"mediaType": "x"}, "unknown kind 'x'"),
        (other, "is of another record"),
        (made.entry(1)["signature"], "is of another kind of record"),
    ):
        made.put("registry/mini/versions/3.json", value | {"signature": signature})
        assert text in made.wrong()["registry/mini/versions/3.json"].what
        assert made.check().signatures[BAD] == 1
    made.put("registry/mini/versions/3.json", value | {"signature": "none"})
    assert "'signature' is missing or no such value" in (
        made.wrong()["registry/mini/versions/3.json"].what
    )


FOREIGN: list[tuple[str, bytes, str]] = [
    ("versions/notes.json", b"{}", "is no record of the registry"),
    ("history/README", b"", "is no record of the registry"),
    ("versions/3.json", b"{", "is not JSON"),
    ("versions/3.json", b"[]", "is not a JSON object"),
    ("versions/3.json", b'{"artifact": {"sha256": "../../etc"}}', "names no digest"),
    ("history/5.json", b"\xff\x00", "is not JSON"),
    ("history/5.json", b'{"seq": 5}', "is missing or no such value"),
    ("history/6.json", b'{"name": "chart", "kind": "Deployment"}', "is missing or no such value"),
    ("history/5.json", b"[" * 100_000, "is not JSON"),
    ("aliases/x", b"", "is no alias"),
    ("signatures/version-1-abc.json", b"{", "not a Sigstore bundle"),
]


@pytest.mark.parametrize(("place", "data", "message"), FOREIGN)
def test_foreign_files(made: Made, place: str, data: bytes, message: str) -> None:
    made.path(f"registry/mini/{place}").parent.mkdir(exist_ok=True)
    made.path(f"registry/mini/{place}").write_bytes(data)
    assert any(message in one.what for one in made.wrong().values())
    other = check(made.store, "other")
    assert other.ok
    assert verified_version(made.store, "other@candidate").number == 1


def test_only_clear_errors_come_out_of_any_of_this(made: Made) -> None:
    """Each file of the registry in turn replaced by each kind of junk."""
    junk = [b"", b"{", b"null", b"{}", b'{"seq": 1e999}', b'{"kind": {}}', b"\xed\xa0\x80"]
    files = [path for path in (made.root / "registry").rglob("*.json") if path.is_file()]
    assert len(files) > 10
    calls: list[Callable[[], object]] = [
        lambda: verified_version(made.store, "mini@candidate"),
        lambda: verified_version(made.store, "mini@2"),
        lambda: Registry(made.store).versions("mini"),
        lambda: Registry(made.store).move("mini", "candidate", 1, why="x", expected=7),
    ]
    for path in files:
        kept = path.read_bytes()
        for data in junk:
            path.write_bytes(data)
            check(made.store)
            for call in calls:
                with contextlib.suppress(VilaError):
                    call()
        path.write_bytes(kept)
    assert made.check().ok


def test_nobody_is_trusted_so_nothing_must_be_signed(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    found = made.check()
    assert found.ok
    assert not found.trusted
    assert found.signatures == {UNKNOWN: 8}
    assert verified_version(made.store, "mini@candidate").number == 1


def test_what_is_no_model(made: Made) -> None:
    (made.root / "registry" / "README").write_text("hello")
    (made.root / "registry" / "Not A Model").mkdir()
    found = check(made.store)
    assert [(one.key, one.what) for one in found.findings] == [
        ("registry/Not A Model", "is no model: it holds no version"),
        ("registry/README", "is no model: it holds no version"),
    ]
    assert Registry(made.store).versions("README") == []


def test_unknown_models_are_a_mistake(made: Made) -> None:
    with pytest.raises(UserError, match="no model 'mimi' is registered; registered: mini, other"):
        check(made.store, "mimi")
