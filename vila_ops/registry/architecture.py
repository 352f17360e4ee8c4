"""What a version's model consists of, from its config and the header of its weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.registry import Version
from vila_core.errors import StoreError
from vila_core.store import Store, read_file, ref_of

_LARGEST_HEADER = 64 * 2**20


@dataclass(frozen=True)
class Architecture:
    """The model's config, its files with sha256, and its number of parameters (None: unknown)."""

    config: Mapping[str, Any]
    files: Mapping[str, str]
    sizes: Mapping[str, int]
    parameters: int | None
    dtypes: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """The size of all weight files together."""
        return sum(size for name, size in self.sizes.items() if name.endswith(".safetensors"))


def architecture(store: Store, version: Version) -> Architecture:
    """Read what a model consists of; what can't be read is left empty."""
    sha256 = version.artifact.sha256
    config, entries = {}, []
    try:
        manifest = json.loads(store.read(f"artifacts/{sha256}/manifest.json"))
        entries = [entry for entry in manifest["files"] if isinstance(entry, dict)]
        config = json.loads(read_file(store, ref_of(store, sha256), "config.json"))
    except (StoreError, ValueError, KeyError, TypeError):
        pass
    weights = sorted(e["path"] for e in entries if str(e["path"]).endswith(".safetensors"))
    headers = [_header(store, f"artifacts/{sha256}/{path}") for path in weights]
    tensors = [
        tensor
        for header in headers
        for name, tensor in (header or {}).items()
        if name != "__metadata__"
    ]
    whole = bool(headers) and all(header is not None for header in headers)
    return Architecture(
        config=config if isinstance(config, dict) else {},
        files={str(e["path"]): str(e["sha256"]) for e in entries},
        sizes={str(e["path"]): int(e["size"]) for e in entries},
        parameters=sum(math.prod(t["shape"]) for t in tensors) if whole else None,
        dtypes=tuple(sorted({str(t["dtype"]) for t in tensors})),
    )


def _header(store: Store, key: str) -> Mapping[str, Any] | None:
    """Return the header of a safetensors file, without reading the tensors."""
    data = b""
    try:
        for chunk in store.chunks(key):
            data += chunk
            if len(data) < 8:
                continue
            (length,) = struct.unpack("<Q", data[:8])
            if length > _LARGEST_HEADER:
                return None
            if len(data) >= 8 + length:
                return json.loads(data[8 : 8 + length])
    except (StoreError, ValueError):
        pass
    return None
