"""Writing safetensors: straight from the tensors' memory, hashed on the way, flushed to disk.

The library's `save_file` copies each tensor to bytes first, and its file would have to be read
again for the digest. Writing and hashing large buffers release Python's lock, so a thread that does
so hardly holds up training. The format: <https://huggingface.co/docs/safetensors>.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_CHUNK_BYTES = 16 << 20
_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Written:
    """A file as its manifest lists it."""

    path: str
    size: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Written:
    """Write contiguous CPU tensors to `path` as safetensors, durably. Raises OSError."""
    # Wide values first: then every tensor lies aligned, as the library's own files do.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = [memoryview(len(text).to_bytes(8, "little") + text)]
    parts += [_bytes(tensors[name]) for name in order]
    return _write(path, parts)


def write_text(path: Path, text: str) -> Written:
    """Write `text` to `path`, durably. Raises OSError."""
    return _write(path, [memoryview(text.encode("utf-8"))])


def _write(path: Path, parts: list[memoryview]) -> Written:
    digest, size = hashlib.sha256(), 0
    with path.open("wb", buffering=0) as file:
        for part in parts:
            for start in range(0, len(part), _CHUNK_BYTES):
                chunk = part[start : start + _CHUNK_BYTES]
                digest.update(chunk)
                size += len(chunk)
                while chunk:  # an unbuffered write may take a part only
                    chunk = chunk[file.write(chunk) :]
        os.fsync(file.fileno())
    return Written(path.name, size, digest.hexdigest())


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
