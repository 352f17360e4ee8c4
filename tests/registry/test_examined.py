"""Signatures that were made later are fetched from a bucket once, and again where they changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.registry import Registry, Version, keys
from components.registry.signatures import Signatures
from components.registry.signing import BAD, VALID, trust_of_user
from vila_core.store import ArtifactRef, Store


def test_from_a_bucket_each_is_fetched_once(
    s3_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    registry = Registry(s3_store)
    registry.register(Version("mini", 0, ArtifactRef("", "a" * 64), "r1", "key", {}, {}, {}))
    entries = [registry.note("mini", "approve", 1, why=str(n), who="me") for n in range(20)]
    own = keys.create_key(keys.own_key_path())
    signatures = Signatures(s3_store, "mini")
    assert all(signatures.add(entry, own) for entry in entries)
    trust, asked, read = trust_of_user(), [], s3_store.read

    def counted(key: str) -> bytes:
        asked.append(key)
        return read(key)

    def states() -> list[str]:
        asked.clear()
        history = registry.history("mini")
        examined = Signatures(s3_store, "mini").all_examined(history, trust)
        return [one.state for one in examined]

    monkeypatch.setattr(s3_store, "read", counted)
    assert states() == [VALID] * 20
    assert len([key for key in asked if "/signatures/" in key]) == 20
    assert states() == [VALID] * 20
    assert asked == []
    place = f"registry/mini/signatures/entry-7-{own.key_id[:16]}.json"
    bundle = json.loads(read(place))
    bundle["dsseEnvelope"]["payload"] = ""
    s3_store.write(place, json.dumps(bundle).encode())
    assert states() == [*[VALID] * 6, BAD, *[VALID] * 13]
    assert asked == [place]
