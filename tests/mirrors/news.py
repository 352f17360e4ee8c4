"""A registry with versions, targets that are told of it, and a clock that stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.registry import Registry, Version
from vila_core.store import ArtifactRef, Store
from vila_ops.registry import outbox
from vila_ops.registry.mirror_settings import MirrorSettings

SECRET = "whsec_" + "c2VjcmV0IGZvciB0ZXN0cyBvbmx5IQ=="


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def settings(*urls: str, **more: Any) -> MirrorSettings:
    hooks = {
        f"hook-{number}": {
            "url": url,
            "secret": {"env": "HOOK_SECRET"},
            "timeout_s": 0.5,
            "allow_http": True,
            "allow_private": True,
            **more,
        }
        for number, url in enumerate(urls)
    }
    return MirrorSettings.model_validate({"webhooks": hooks})


def write(path: Path, config: MirrorSettings) -> None:
    path.write_text(json.dumps(config.model_dump(mode="json", exclude_none=True)))


def registered(store: Store, model: str = "mini", versions: int = 3) -> Registry:
    registry = Registry(store)
    for number in range(versions):
        artifact = ArtifactRef(uri="", sha256="a" * 64)
        registry.register(Version(model, 0, artifact, f"r{number}", "key", {}, {}, {}))
    return registry


def move(registry: Registry, config: MirrorSettings, to: int, alias: str = "champion") -> None:
    """Move an alias as `vila promote` does: the entry, then the news of it."""
    entry = registry.move("mini", alias, to, why=f"to {to}")
    for name, _ in config.targets():
        outbox._begin(registry._store, "mini", name, entry.seq - 1)
