"""Signatures of versions and entries: a DSSE envelope over an in-toto statement, as a bundle.

The bundle is Sigstore's (v0.3), with a hint at the public key where the key is one's own, and with
certificate and log entry where it was made without a key. The statement's subjects are the record
(its canonical JSON without signature) and, of a version, the manifest of its artifact, which names
the digest of every file.

    registry/<model>/signatures/<kind>-<number>-<key>.json    those that were made later
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from components.registry.keys import SigningKey, TrustedKey, own_key, trusted_keys
from components.registry.records import HistoryEntry, Version
from vila_core.jsonio import dumps

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
VERSION_PREDICATE = "urn:vila:registry:version:v1"
ENTRY_PREDICATE = "urn:vila:registry:history:v1"

VALID, UNKNOWN, BAD, UNSIGNED = "valid", "unknown key", "bad", "unsigned"
"""What can be said of a signature: UNKNOWN is well-formed, by somebody who is not trusted."""


@dataclass(frozen=True)
class Signed:
    """What is known of the signature of a record: its state, whose it is, and in words."""

    state: str
    by: str = ""
    text: str = ""
    who: str = ""
    """What somebody who is trusted is called here; "" for others."""


@dataclass(frozen=True)
class Statement:
    """What is signed: the digests (sha256, hex) of its subjects by name, and what kind it is of."""

    subjects: Mapping[str, str]
    kind: str
    predicate: Mapping[str, Any]

    def payload(self) -> bytes:
        """Return the in-toto statement, as it is signed."""
        subjects = [
            {"name": name, "digest": {"sha256": sha256}}
            for name, sha256 in sorted(self.subjects.items())
        ]
        value = {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": self.kind,
            "predicate": dict(self.predicate),
        }
        return dumps(value).encode()


@dataclass(frozen=True)
class Trust:
    """Whose signatures are believed: keys by id, and identities of Sigstore."""

    keys: Mapping[str, TrustedKey]
    identities: tuple[tuple[str, str], ...] = ()  # identity, issuer

    @property
    def anybody(self) -> bool:
        """Whether anybody is trusted; else no signature is asked for."""
        return bool(self.keys or self.identities)


def trust_of_user() -> Trust:
    """Return whom this user trusts. Raises UserError for a file that can't be read."""
    from components.registry.keyless import trusted_identities

    return Trust(trusted_keys(), trusted_identities())


def of_version(version: Version) -> Statement:
    """Return what the signature of a version is over."""
    subjects = {
        f"registry/{version.model}/versions/{version.number}.json": version.digest(),
        f"artifacts/{version.artifact.sha256}/manifest.json": version.artifact.sha256,
    }
    predicate = {"model": version.model, "number": version.number, "run_id": version.run_id}
    return Statement(subjects, VERSION_PREDICATE, predicate)


def of_entry(model: str, entry: HistoryEntry) -> Statement:
    """Return what the signature of an entry is over."""
    subjects = {f"registry/{model}/history/{entry.seq}.json": entry.digest()}
    predicate = {
        "model": model,
        "seq": entry.seq,
        "kind": entry.kind,
        "version": entry.version,
        "alias": entry.alias,
        "who": entry.who,
        "when": entry.when,
    }
    return Statement(subjects, ENTRY_PREDICATE, predicate)


def signature_of(statement: Statement, key: SigningKey | None = None) -> dict[str, Any] | None:
    """Return a signature by `key`, else by this user's; None where there is no key.

    With VILA_SIGN_KEYLESS=1 it is made by Sigstore with the OIDC token of the surroundings (a CI
    job). Raises UserError for a key that can't be used.
    """
    if key is None and os.environ.get("VILA_SIGN_KEYLESS") == "1":
        from components.registry.keyless import sign_keyless

        return sign_keyless(statement.payload())
    key = key or own_key()
    return None if key is None else sign(statement, key)


def sign(statement: Statement, key: SigningKey) -> dict[str, Any]:
    """Return the bundle of a statement, signed by a key."""
    payload = statement.payload()
    signature = key.sign(_encoded(payload))
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.key_id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": key.key_id, "sig": base64.b64encode(signature).decode()}],
        },
    }


def examine(bundles: Iterable[Mapping[str, Any]], statement: Statement, trust: Trust) -> Signed:
    """Return what is known of the signatures of a record; one by somebody trusted is enough.

    A bad one is told even beside a good one.
    """
    found = [_examine(bundle, statement, trust) for bundle in bundles]
    for state in (BAD, VALID, UNKNOWN):
        for one in found:
            if one.state == state:
                return one
    return Signed(UNSIGNED, text="is not signed")


def _examine(bundle: Mapping[str, Any], statement: Statement, trust: Trust) -> Signed:
    try:
        return _checked(bundle, statement, trust)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return Signed(BAD, text="its signature is not a Sigstore bundle")


def _checked(bundle: Mapping[str, Any], statement: Statement, trust: Trust) -> Signed:
    if bundle["mediaType"] != MEDIA_TYPE:
        return Signed(BAD, text=f"its signature is of the unknown kind '{bundle['mediaType']}'")
    envelope = bundle["dsseEnvelope"]
    payload = _bytes(envelope["payload"])
    if envelope["payloadType"] != PAYLOAD_TYPE:
        return Signed(BAD, text=f"its signature is over '{envelope['payloadType']}'")
    if wrong := _difference(json.loads(payload), statement):
        return Signed(BAD, text=wrong)
    material = bundle["verificationMaterial"]
    if "certificate" in material:
        from components.registry.keyless import examine_keyless

        state, by, text = examine_keyless(bundle, payload, trust.identities)
        return Signed(state, by, text, by if state == VALID else "")
    key_id = str(material["publicKey"]["hint"])
    key = trust.keys.get(key_id)
    if key is None:
        return Signed(UNKNOWN, key_id, f"is signed by key {key_id[:16]}, which is not trusted")
    signatures = [_bytes(one["sig"]) for one in envelope["signatures"]]
    if len(signatures) != 1 or not key.verifies(signatures[0], _encoded(payload)):
        return Signed(BAD, key_id, f"its signature was not made by key {key_id[:16]} ({key.name})")
    return Signed(VALID, key_id, f"is signed by {key.name} (key {key_id[:16]})", key.name)


def _difference(signed: Any, statement: Statement) -> str:
    """Return in what a signed statement is not the expected one; "" if it is."""
    if (signed["_type"], signed["predicateType"]) != (STATEMENT_TYPE, statement.kind):
        return f"its signature is of another kind of record ({signed['predicateType']})"
    subjects = {one["name"]: one["digest"]["sha256"] for one in signed["subject"]}
    for name, sha256 in statement.subjects.items():
        if name not in subjects:
            return f"its signature is of another record: it names no {name}"
        if subjects[name] != sha256:
            return f"its content was changed after it was signed: {name} has another digest"
    return ""


def _encoded(payload: bytes) -> bytes:
    """Return what is really signed: DSSE's encoding of type and payload, PAE."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
