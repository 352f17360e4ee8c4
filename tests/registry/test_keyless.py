"""Sigstore's signatures without a key: checked offline, as those of a Sigstore of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.registry import Registry, Version
from components.registry.keyless import sign_keyless, trusted_identities
from components.registry.signing import of_version
from components.registry.verify import check, verified_version
from tests.registry.own_sigstore import OwnSigstore
from vila_core.errors import Damaged, UserError
from vila_core.store import Store, open_store, publish

pytest.importorskip("sigstore", reason="the extra 'sigstore' is not installed")

CI = "https://github.com/lab/vila/.github/workflows/train.yml@refs/heads/main"
GITHUB = "https://token.actions.githubusercontent.com"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("VILA_TRUSTED_IDENTITIES", str(tmp_path / "trusted.yaml"))
    (tmp_path / "trusted.yaml").write_text(f"- {{identity: '{CI}', issuer: '{GITHUB}'}}\n")
    store = open_store(tmp_path / "store")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    artifact = publish(store, tmp_path / "model")
    Registry(store).register(Version("mini", 0, artifact, "r1", "key", {}, {}, {}))
    return store


@pytest.fixture
def sigstore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnSigstore:
    own = OwnSigstore()
    (tmp_path / "root.json").write_text(json.dumps(own.trusted_root()))
    monkeypatch.setenv("VILA_SIGSTORE_ROOT", str(tmp_path / "root.json"))
    return own


def put(store: Store, signature: Any) -> None:
    place = "registry/mini/versions/1.json"
    value = json.loads(store.read(place))
    store.write(place, json.dumps({**value, "signature": signature}).encode())


def statement(store: Store) -> bytes:
    return of_version(Registry(store).version("mini", 1)).payload()


def test_a_trusted_workflow_has_signed(store: Store, sigstore: OwnSigstore) -> None:
    put(store, sigstore.sign(statement(store), CI, GITHUB))
    assert verified_version(store, "mini@1").number == 1
    assert check(store).signatures == {"valid": 1}
    assert check(store).ok


@pytest.mark.parametrize(
    ("identity", "issuer"),
    [
        (CI.replace("lab", "evil"), GITHUB),
        (CI, "https://issuer.example.com"),
    ],
)
def test_others_are_not_trusted(
    store: Store, sigstore: OwnSigstore, identity: str, issuer: str
) -> None:
    put(store, sigstore.sign(statement(store), identity, issuer))
    with pytest.raises(UserError, match="by an identity of Sigstore that is not trusted"):
        verified_version(store, "mini@1")


def test_a_sigstore_that_nobody_believes(store: Store, sigstore: OwnSigstore) -> None:
    put(store, OwnSigstore().sign(statement(store), CI, GITHUB))
    with pytest.raises(Damaged, match=f"its signature by {CI} is not good"):
        verified_version(store, "mini@1", allow_unsigned=True)


@pytest.mark.parametrize("part", ["sig", "signedEntryTimestamp", "envelope", "canonicalizedBody"])
def test_each_part_of_a_bundle_counts(store: Store, sigstore: OwnSigstore, part: str) -> None:
    good = sigstore.sign(statement(store), CI, GITHUB)
    other = sigstore.sign(statement(store), CI, GITHUB)
    entry = good["verificationMaterial"]["tlogEntries"][0]
    others = other["verificationMaterial"]["tlogEntries"][0]
    if part == "sig":
        good["dsseEnvelope"]["signatures"] = other["dsseEnvelope"]["signatures"]
    elif part == "signedEntryTimestamp":
        entry["inclusionPromise"] = others["inclusionPromise"]
    elif part == "envelope":
        entry["inclusionProof"] = others["inclusionProof"]
    else:
        entry[part] = others[part]
    put(store, good)
    with pytest.raises(Damaged, match="is not good"):
        verified_version(store, "mini@1")


def test_a_record_changed_after_a_workflow_signed_it(store: Store, sigstore: OwnSigstore) -> None:
    bundle = sigstore.sign(statement(store), CI, GITHUB)
    place = "registry/mini/versions/1.json"
    value = json.loads(store.read(place))
    store.write(place, json.dumps({**value, "run_id": "r2", "signature": bundle}).encode())
    with pytest.raises(Damaged, match="its content was changed after it was signed"):
        verified_version(store, "mini@1")


def test_a_bundle_with_a_certificate_that_is_none(store: Store, sigstore: OwnSigstore) -> None:
    bundle = sigstore.sign(statement(store), CI, GITHUB)
    bundle["verificationMaterial"]["tlogEntries"] = []
    put(store, bundle)
    with pytest.raises(Damaged, match="is not a bundle of Sigstore"):
        verified_version(store, "mini@1")


def test_the_public_root_is_believed_without_a_network(store: Store) -> None:
    put(store, OwnSigstore().sign(statement(store), CI, GITHUB))
    with pytest.raises(Damaged, match="is not good"):
        verified_version(store, "mini@1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {identity: a}", "entry 0 is not {identity: …, issuer: …}"),
        ("- {identity: a, issuer: 7}", "entry 0"),
        ("hello", "entry 0"),
        ("{", "can't be read"),
    ],
)
def test_files_of_identities_that_are_none(store: Store, text: str, message: str) -> None:
    path = store.local_path("registry")
    assert path is not None
    (path.parents[1] / "trusted.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        trusted_identities()


def test_a_root_that_is_none(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, OwnSigstore().sign(statement(store), CI, GITHUB))
    (tmp_path / "root.json").write_text("{}")
    monkeypatch.setenv("VILA_SIGSTORE_ROOT", str(tmp_path / "root.json"))
    with pytest.raises(UserError, match=r"VILA_SIGSTORE_ROOT=.*: is no trusted root"):
        verified_version(store, "mini@1")


def test_signing_needs_a_token(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VILA_SIGN_KEYLESS", "1")
    with pytest.raises(UserError, match="there is no OIDC token here"):
        sign_keyless(b"{}")
    with pytest.raises(UserError, match="there is no OIDC token here"):
        Registry(store).move("mini", "candidate", 1, why="x")
    assert Registry(store).history("mini") == []
