"""A Sigstore in memory: an authority, a log of certificates and a log of signatures.

It signs as Fulcio and Rekor (v1) do, so that a verifier which believes its root accepts it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

SCTS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def der(key: EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(der(key)).digest()


def signed(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ECDSA(SHA256()))


class OwnSigstore:
    def __init__(self) -> None:
        self._ca, self._ct, self._rekor = (generate_private_key(SECP256R1()) for _ in range(3))
        self._now = datetime.now(UTC).replace(microsecond=0)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
        self._authority = self._common(name, name, self._ca, days=1000, authority=True).sign(
            self._ca, SHA256()
        )

    def trusted_root(self) -> dict[str, Any]:
        """Return what `trusted_root.json` of this instance says."""
        since = (self._now - timedelta(days=1)).isoformat().replace("+00:00", "Z")

        def log(key: EllipticCurvePrivateKey) -> dict[str, Any]:
            return {
                "baseUrl": "https://log.example.com",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(der(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": {"start": since},
                },
                "logId": {"keyId": b64(key_id(key))},
            }

        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self._rekor)],
            "ctlogs": [log(self._ct)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "own", "commonName": "own"},
                    "uri": "https://ca.example.com",
                    "certChain": {
                        "certificates": [
                            {"rawBytes": b64(self._authority.public_bytes(Encoding.DER))}
                        ]
                    },
                    "validFor": {"start": since},
                }
            ],
            "timestampAuthorities": [],
        }

    def sign(self, payload: bytes, identity: str, issuer: str) -> dict[str, Any]:
        """Return the bundle of a statement, signed by an identity."""
        key = generate_private_key(SECP256R1())
        certificate = self._certificate(key, identity, issuer)
        encoded = b"DSSEv1 %d %s %d %s" % (
            len(PAYLOAD_TYPE),
            PAYLOAD_TYPE.encode(),
            len(payload),
            payload,
        )
        signature = b64(signed(key, encoded))
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [self._entry(payload, signature, certificate)],
            },
            "dsseEnvelope": {
                "payload": b64(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": signature}],
            },
        }

    def _common(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: EllipticCurvePrivateKey,
        *,
        days: int,
        authority: bool,
    ) -> x509.CertificateBuilder:
        usage = dict.fromkeys(
            (
                "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                "encipher_only", "decipher_only",
            ),
            False,
        )  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - timedelta(minutes=5))
            .not_valid_after(self._now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not authority,
                    key_cert_sign=authority,
                    crl_sign=authority,
                    **usage,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca.public_key()), False
            )
        )

    def _certificate(
        self, key: EllipticCurvePrivateKey, identity: str, issuer: str
    ) -> x509.Certificate:
        name = x509.Name([])
        builder = (
            self._common(name, self._authority.subject, key, days=1, authority=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), True
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.UnrecognizedExtension(ISSUER, issuer.encode()), False)
        )
        before = builder.sign(self._ca, SHA256()).tbs_certificate_bytes
        stamp = int(self._now.timestamp() * 1000)
        entry = key_id(self._ca) + len(before).to_bytes(3, "big") + before
        to_sign = struct.pack("!BBQH", 0, 0, stamp, 1) + entry + struct.pack("!H", 0)
        signature = signed(self._ct, to_sign)
        sct = struct.pack("!B32sQHBBH", 0, key_id(self._ct), stamp, 0, 4, 3, len(signature))
        sct += signature
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        wrapped = b"\x04" + _length(len(listed)) + listed
        return builder.add_extension(x509.UnrecognizedExtension(SCTS, wrapped), False).sign(
            self._ca, SHA256()
        )

    def _entry(
        self, payload: bytes, signature: str, certificate: x509.Certificate
    ) -> dict[str, Any]:
        digest = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
        verifier = b64(certificate.public_bytes(Encoding.PEM))
        spec = {
            "envelopeHash": digest,
            "payloadHash": digest,
            "signatures": [{"signature": signature, "verifier": verifier}],
        }
        body = json.dumps(
            {"apiVersion": "0.0.1", "kind": "dsse", "spec": spec},
            sort_keys=True,
            separators=(",", ":"),
        ).encode()
        root = hashlib.sha256(b"\0" + body).digest()  # a log of one entry
        note = f"own log\n1\n{b64(root)}\n"
        mark = b64(key_id(self._rekor)[:4] + signed(self._rekor, note.encode()))
        when = int(self._now.timestamp())
        promise = {
            "body": b64(body),
            "integratedTime": when,
            "logID": key_id(self._rekor).hex(),
            "logIndex": 0,
        }
        canonical = json.dumps(promise, sort_keys=True, separators=(",", ":")).encode()
        return {
            "logIndex": "0",
            "logId": {"keyId": b64(key_id(self._rekor))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(when),
            "inclusionPromise": {"signedEntryTimestamp": b64(signed(self._rekor, canonical))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 own {mark}\n"},
            },
            "canonicalizedBody": b64(body),
        }


def _length(size: int) -> bytes:
    return bytes([size]) if size < 128 else b"\x81" + bytes([size])
