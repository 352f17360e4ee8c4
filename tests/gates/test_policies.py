"""Gates that look for proofs and permissions: resumption, export, licences, approvals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from made_evaluations import asked, candidate, version

from components.registry import Registry
from components.registry.certificates import keep_certificate
from components.registry.gates.verdict import Verdict
from components.registry.keys import own_key
from components.runtime.record import AttemptWriter, create_run
from vila_core.jsonio import digest, dumps
from vila_core.store import Store, open_store
from vila_ops.registry.rollback import approve, reject, withdraw

MODEL = "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def run(
    store: Store, run_id: str = "r-new", cached_from: str | None = None, data: str = ""
) -> None:
    """A run that pre-trained and tuned the model of candidates."""
    create_run(store, {"run_id": run_id, "config_digest": "c0ffee"})
    made = {"pretrain": digest("pretrained"), "sft": MODEL}
    taken = {"pretrain": {}, "sft": {"base": made["pretrain"]}}
    for name, sha256 in made.items():
        config = {"mixture": {"a": 1.0, "b": 1.0}, "data": data, "train": {"steps": 9}}
        parts = {"stage": name, "config": config, "inputs": taken[name], "code": {"digest": ""}}
        started = {"stage": name, "key": digest(name), "config": config, "key_parts": parts}
        AttemptWriter(store, run_id, name, started).finish(
            {
                "status": "cached" if cached_from else "succeeded",
                "outputs": {"model": {"uri": "", "sha256": sha256}},
                "cached_from": {"run_id": cached_from} if cached_from else None,
            }
        )


def certify(store: Store, task: str, run_id: str = "r-new", equal: bool = True) -> None:
    value = {"run_id": run_id, "task": task, "equal": equal, "made_at": "2026", "resumed_from": 4}
    store.write(f"runs/{run_id}/certificates/resume-{task}.json", dumps(value).encode())


def ask(store: Store, gate: Mapping[str, Any], **more: Any) -> Verdict:
    (verdict,) = asked([gate], candidate(store, "", None, **more))
    json.loads(dumps(verdict.as_json()))
    assert verdict.details["gate"]
    assert verdict.details["found"]
    return verdict


def test_every_training_needs_a_certificate_of_resumption(store: Store) -> None:
    run(store)
    certify(store, "sft")
    found = ask(store, {"resume": {}})
    assert (found.kind, found.passed) == ("resume", False)
    assert "pretrain: no certificate" in found.text
    assert found.details["fix"] == "vila verify resume r-new --task pretrain"  # sft has its own
    assert ask(store, {"resume": {"tasks": ["sft"]}}).passed
    certify(store, "pretrain")
    found = ask(store, {"resume": {}})
    assert found.passed
    assert found.details["certificates"]["sft"]["resumed_from"] == 4


def test_a_certificate_that_is_none_or_says_no(store: Store) -> None:
    run(store)
    certify(store, "pretrain")
    certify(store, "sft", equal=False)
    found = ask(store, {"resume": {}})
    assert "sft: it did NOT resume to the same bits" in found.text
    assert "runs/r-new/certificates/resume-sft.json" in found.details["fix"]
    store.write("runs/r-new/certificates/resume-sft.json", b'{"equal": true')
    assert "is no certificate" in ask(store, {"resume": {}}).text
    assert "eval is no training behind this model" in (
        ask(store, {"resume": {"tasks": ["eval"]}}).text
    )


def test_a_cached_training_was_proven_in_the_run_that_did_it(store: Store) -> None:
    run(store, cached_from="r-first")
    for task in ("pretrain", "sft"):
        certify(store, task, "r-first")
    assert ask(store, {"resume": {}}).passed


@pytest.mark.parametrize(
    "gate", [{"resume": {}}, {"licences": {"allow": ["*"]}}], ids=["resume", "licences"]
)
def test_a_run_that_was_removed_proves_nothing(store: Store, gate: Mapping[str, Any]) -> None:
    found = ask(store, gate)
    assert not found.passed
    assert "no record of a training of this model" in found.text


PROOF = {"prompts": [{"max_abs_difference": 1e-6, "tolerance": 1e-5}], "tolerance": 1e-5}


def test_an_export_was_proven_equivalent(store: Store) -> None:
    gate = {"export": {}}
    assert "it is no version yet" in ask(store, gate).text
    made = version(store, "")
    found = ask(store, gate, version=made)
    assert not found.passed
    assert "vila registry export mini@1 --layout transformers" in found.details["fix"]
    keep_certificate(store, made, PROOF | {"layout": "llava"})
    found = ask(store, gate, version=made)
    assert found.passed
    assert found.details["certificates"]["llava"]["tolerance"] == 1e-5
    other = ask(store, {"export": {"layouts": ["transformers"]}}, version=made)
    assert not other.passed
    assert "no certificate of transformers" in other.text


def test_a_certificate_beyond_its_tolerance_fails(store: Store) -> None:
    made = version(store, "")
    keep_certificate(store, made, PROOF | {"layout": "transformers"})
    bad = {"layout": "llava", "prompts": [{"max_abs_difference": 1e-3, "tolerance": 1e-5}]}
    keep_certificate(store, made, bad)
    found = ask(store, {"export": {"layouts": ["transformers"]}}, version=made)
    assert not found.passed
    assert "the certificate of llava does not hold" in found.text
    assert "remove it from registry/mini/certificates/1" in found.details["fix"]


def corpora(tmp_path: Path, **licences: str | None) -> str:
    for name, licence in licences.items():
        folder = tmp_path / "corpora" / name
        folder.mkdir(parents=True)
        manifest = {"name": name, **({"licence": licence} if licence else {})}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("a", "b", "gate", "passed"),
    [
        ("CC-BY-4.0", "ODC-BY", {"allow": ["cc-by-*", "odc-by"]}, True),
        ("CC-BY-4.0", "CC-BY-NC-4.0", {"allow": ["CC-BY-4.0"]}, False),
        ("CC-BY-4.0", "CC-BY-NC-4.0", {"deny": ["*-NC-*"]}, False),
        ("CC-BY-4.0", "ODC-BY", {"deny": ["*-NC-*"]}, True),
        ("CC-BY-4.0", "CC-BY-NC-4.0", {"allow": ["CC-*"], "deny": ["*-NC-*"]}, False),
        ("CC-BY-4.0", None, {"allow": ["*"]}, False),
        ("CC-BY-4.0", None, {"allow": ["*"], "unknown": "pass"}, True),
    ],
)
def test_licences_of_the_corpora(
    store: Store, tmp_path: Path, a: str, b: str | None, gate: dict[str, Any], passed: bool
) -> None:
    run(store, data=corpora(tmp_path, a=a, b=b))
    found = ask(store, {"licences": gate})
    assert (found.kind, found.passed) == ("licence", passed)
    assert found.details["corpora"] == {"a": a, "b": b}
    assert found.details["refused"] == ({} if passed else {"b": b})


def test_licences_of_corpora_that_are_gone(store: Store, tmp_path: Path) -> None:
    run(store, data=corpora(tmp_path, a="CC0"))
    found = ask(store, {"licences": {"allow": ["*"]}})
    assert not found.passed
    assert "there is no corpus any more" in found.text


def test_approvals_are_by_different_people_who_do_not_promote(store: Store) -> None:
    made = version(store, "")
    gate = {"approvals": {"count": 2}}

    def counted(**more: Any) -> tuple[bool, float | None]:
        found = ask(store, gate, version=made, **more)
        return found.passed, found.value

    assert counted() == (False, 0.0)
    for who in ("ada", "bob", "bob"):
        approve(store, "mini@1", why="looked at it", who=who)
    assert counted() == (False, 1.0)  # ada promotes
    assert counted(who="eve") == (True, 2.0)
    approve(store, "mini@1", why="me too", who="cy")
    assert counted() == (True, 2.0)
    withdraw(store, "mini@1", why="saw it fail", who="cy")
    assert counted() == (False, 1.0)
    with_own = {"approvals": {"count": 2, "not_promoter": False}}
    assert ask(store, with_own, version=made).passed
    reject(store, "mini@1", why="no", who="bob")
    approve(store, "mini@1", why="back in", who="cy")
    found = ask(store, gate, version=made)
    assert found.details["approvers"] == ["cy"]  # who rejects approves no more
    assert "by 1 more" in found.details["fix"]


def test_a_model_that_is_no_version_can_have_no_approvals(store: Store) -> None:
    found = ask(store, {"approvals": {}})
    assert not found.passed
    assert "it is no version yet" in found.text


def test_the_history_keeps_who_approved(store: Store) -> None:
    version(store, "")
    entry = approve(store, "mini@1", why="looked at it", who="bob")
    assert (entry.kind, entry.version, entry.why) == ("approve", 1, "looked at it")
    assert Registry(store).history("mini")[-1].who == "bob"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's key yet."""
    for name in ("VILA_SIGNING_KEY", "VILA_TRUSTED_KEYS", "VILA_SIGN_KEYLESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_a_version_is_signed_by_somebody_who_is_trusted(store: Store, keys: Path) -> None:
    unsigned = version(store, "")
    found = ask(store, {"signature": {}}, version=unsigned)
    assert (found.kind, found.passed, found.details["state"]) == ("signature", False, "unsigned")
    assert "vila registry sign mini@1" in found.details["fix"]
    assert "there is no key" in ask(store, {"signature": {}}).text
    own = own_key(create=True)
    assert own is not None
    assert "will be signed by key" in ask(store, {"signature": {}}).text
    signed = version(store, "", "second")
    assert ask(store, {"signature": {}}, version=signed).passed
    assert ask(store, {"signature": {"keys": [own.key_id[:12]]}}, version=signed).passed
    other = ask(store, {"signature": {"keys": ["0123abcd"]}}, version=signed)
    assert not other.passed
    assert "not trusted" in other.text
    assert not ask(store, {"signature": {"keys": ["0123abcd"]}}).passed


def test_a_version_that_was_changed_after_it_was_signed(store: Store, keys: Path) -> None:
    own_key(create=True)
    version(store, "")
    place = "registry/mini/versions/1.json"
    store.write(place, store.read(place).replace(b'"run_id": "r-old"', b'"run_id": "r-odd"'))
    changed = Registry(store).version("mini", 1)
    found = ask(store, {"signature": {}}, version=changed)
    assert not found.passed
    assert "its content was changed after it was signed" in found.text
