"""Keys, and signatures that anybody can check with Sigstore's tools or a few lines of their own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from components.registry import Registry, Version, keys
from components.registry.signing import BAD, UNKNOWN, UNSIGNED, VALID, Trust, examine, of_version
from vila_core.errors import UserError
from vila_core.store import ArtifactRef, Store, open_store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "vila"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def new(run_id: str = "r1") -> Version:
    artifact = ArtifactRef(uri="", sha256="a" * 64)
    return Version("mini", 0, artifact, run_id, "key", {"a@0": 0.5}, {}, {})


def test_a_key_is_made_once_for_its_owner_alone(home: Path) -> None:
    assert keys.own_key() is None
    assert keys.trusted_keys() == {}
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: keys.own_key(create=True), range(8)))
    assert len({key.key_id for key in made if key}) == 1
    path = home / "signing-key.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in home.iterdir()] == ["signing-key.pem"]
    key = keys.own_key()
    assert key is not None
    assert keys.trusted_keys()[key.key_id].name == "you"
    secret = path.read_text().splitlines()[1]
    assert secret not in repr(key) + str(key) + key.public_pem()


def test_the_key_id_is_the_digest_of_the_public_key() -> None:
    key = keys.own_key(create=True)
    assert key is not None
    public = load_pem_public_key(key.public_pem().encode())
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.key_id == hashlib.sha256(der).hexdigest()


def write_private(path: Path, private: Any, password: bytes | None = None) -> None:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    path.write_bytes(data)
    path.chmod(0o600)


def test_keys_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k.pem"
    monkeypatch.setenv("VILA_SIGNING_KEY", str(path))
    with pytest.raises(UserError, match=r"there is no such file.\n  fix: vila registry key create"):
        keys.own_key()
    write_private(path, generate_private_key(SECP256R1()))
    with pytest.raises(UserError, match="is not an Ed25519 key"):
        keys.own_key()
    write_private(path, Ed25519PrivateKey.generate(), b"secret")
    with pytest.raises(UserError, match="is locked by a password"):
        keys.own_key()
    path.write_text("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
    with pytest.raises(UserError, match="is not a private key in PEM") as found:
        keys.own_key()
    assert "hunter2" not in str(found.value)
    write_private(path, Ed25519PrivateKey.generate())
    path.chmod(0o604)
    with pytest.raises(UserError, match=r"everybody may read .* \(mode 604\)\.\n  fix: chmod 600"):
        keys.own_key()
    path.chmod(0o640)  # a secret that Kubernetes mounts
    assert keys.own_key() is not None


def other_key(folder: Path, name: str = "ann") -> keys.SigningKey:
    folder.mkdir(exist_ok=True)
    key = keys.create_key(folder / f"{name}-private.pem")
    (folder / f"{name}.pem").write_text(key.public_pem())
    return key


def test_trusting_a_key(tmp_path: Path, home: Path) -> None:
    ann = other_key(tmp_path / "ann")
    bob = other_key(tmp_path / "bob", "bob")
    for _ in range(2):  # again changes nothing
        assert keys.trust(tmp_path / "ann" / "ann.pem").name == "ann"
    assert keys.trusted_keys().keys() == {ann.key_id}
    with pytest.raises(UserError, match="is the key of somebody else; fix: --name"):
        keys.trust(tmp_path / "bob" / "bob.pem", "ann")
    with pytest.raises(UserError, match="holds a private key, which must not be passed on"):
        keys.trust(tmp_path / "bob" / "bob-private.pem")
    for name in ("../up", ".hidden", "a b"):
        with pytest.raises(UserError, match="can't name a key"):
            keys.trust(tmp_path / "bob" / "bob.pem", name)
    (tmp_path / "both.pem").write_text(ann.public_pem() + bob.public_pem())
    with pytest.raises(UserError, match="holds 2 keys"):
        keys.trust(tmp_path / "both.pem")
    (home / "trusted-keys" / "junk.pem").write_text("junk")
    with pytest.raises(UserError, match=r"junk.pem: there is no PUBLIC KEY in it"):
        keys.trusted_keys()


def test_trusted_keys_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = other_key(tmp_path / "ann"), other_key(tmp_path / "bob")
    monkeypatch.setenv("VILA_TRUSTED_KEYS", str(tmp_path / "both.pem"))
    with pytest.raises(UserError, match="there is no such file or folder"):
        keys.trusted_keys()
    (tmp_path / "both.pem").write_text(f"# of the team\n{ann.public_pem()}\n{bob.public_pem()}")
    assert keys.trusted_keys().keys() == {ann.key_id, bob.key_id}
    elliptic = generate_private_key(SECP256R1()).public_key()
    pem = elliptic.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "both.pem").write_bytes(pem)
    with pytest.raises(UserError, match="is not an Ed25519 key"):
        keys.trusted_keys()


def test_without_a_key_nothing_is_signed(store: Store) -> None:
    registry = Registry(store)
    assert registry.register(new()).signature is None
    assert registry.move("mini", "candidate", 1, why="x").signature is None


def test_a_signature_is_what_dsse_and_in_toto_say(store: Store) -> None:
    """Checked with nothing of ours but the public key and the stored file."""
    key = keys.own_key(create=True)
    assert key is not None
    version = Registry(store).register(new())
    stored = json.loads(store.read("registry/mini/versions/1.json"))
    bundle = stored.pop("signature")
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == key.key_id
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    public = load_pem_public_key(key.public_pem().encode())
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public.verify(signature, encoded)  # type: ignore[call-arg, union-attr]
    statement = json.loads(payload)
    assert (kind, statement["_type"]) == (
        "application/vnd.in-toto+json",
        "https://in-toto.io/Statement/v1",
    )
    canonical = json.dumps(stored, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert statement["subject"] == [
        {"name": f"artifacts/{'a' * 64}/manifest.json", "digest": {"sha256": "a" * 64}},
        {
            "name": "registry/mini/versions/1.json",
            "digest": {"sha256": hashlib.sha256(canonical.encode()).hexdigest()},
        },
    ]
    assert version.signature == bundle


def test_sigstores_own_models_read_the_bundle(store: Store) -> None:
    from sigstore.dsse import Statement
    from sigstore_models.bundle.v1 import Bundle

    keys.own_key(create=True)
    registry = Registry(store)
    version, entry = registry.register(new()), registry.move("mini", "candidate", 1, why="x")
    for record in (version, entry):
        parsed = Bundle.from_json(json.dumps(record.signature))
        assert parsed.verification_material.public_key is not None
        assert parsed.dsse_envelope is not None
        Statement(parsed.dsse_envelope.payload)  # which fails on what is no statement


def states(version: Version, bundle: Mapping[str, Any] | None, trust: Trust) -> tuple[str, str]:
    found = examine([] if bundle is None else [bundle], of_version(version), trust)
    return found.state, found.text


def test_what_a_signature_can_be(store: Store, tmp_path: Path) -> None:
    key = keys.own_key(create=True)
    assert key is not None
    mine, nobody = Trust(keys.trusted_keys()), Trust({})
    ann = other_key(tmp_path / "ann")
    anns = Trust({ann.key_id: keys.read_public(tmp_path / "ann" / "ann.pem")[0]})
    version = Registry(store).register(new())
    bundle = dict(version.signature or {})
    assert states(version, bundle, mine)[0] == VALID
    assert states(version, None, mine)[0] == UNSIGNED
    state, text = states(version, bundle, anns)
    assert (state, key.key_id[:16] in text) == (UNKNOWN, True)
    assert states(version, bundle, nobody)[0] == UNKNOWN
    other = replace(version, run_id="r2", stored="")
    assert "changed after it was signed" in states(other, bundle, nobody)[1]
    moved = replace(version, number=2)
    assert "it names no registry/mini/versions/2.json" in states(moved, bundle, mine)[1]
    envelope = bundle["dsseEnvelope"]
    forged = base64.b64encode(b"\0" * 64).decode()
    wrong = {**envelope, "signatures": [{"sig": forged, "keyid": key.key_id}]}
    assert "was not made by key" in states(version, {**bundle, "dsseEnvelope": wrong}, mine)[1]
    claimed = {**bundle, "verificationMaterial": {"publicKey": {"hint": ann.key_id}}}
    assert states(version, claimed, anns)[0] == BAD


@pytest.mark.parametrize(
    "bundle",
    [
        {},
        {"mediaType": 7},
        {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"},
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "dsseEnvelope": {"payload": "%%%", "payloadType": "application/vnd.in-toto+json"},
        },
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "dsseEnvelope": {"payload": "W10=", "payloadType": "application/vnd.in-toto+json"},
        },
    ],
)
def test_foreign_signatures_are_bad(store: Store, bundle: dict[str, Any]) -> None:
    version = Registry(store).register(new())
    assert states(version, bundle, Trust({}))[0] == BAD


def test_the_key_file_is_never_copied_into_the_store(store: Store, home: Path) -> None:
    keys.own_key(create=True)
    registry = Registry(store)
    registry.register(new())
    registry.move("mini", "candidate", 1, why="x")
    secret = "".join((home / "signing-key.pem").read_text().splitlines()[1:-1])
    raw = base64.b64decode(secret)[-32:]
    for base, _, files in os.walk(store.local_path("registry") or ""):
        for name in files:
            data = (Path(base) / name).read_bytes()
            assert raw not in data
            assert secret.encode() not in data
