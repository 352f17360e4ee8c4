"""Tars and folders as img2dataset, webdataset and careless or hostile people write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_tar(path: Path, files: Mapping[str, bytes | str | tarfile.TarInfo]) -> Path:
    """A value is a content, or a member of another kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, value in files.items():
            if isinstance(value, tarfile.TarInfo):
                tar.addfile(value)
                continue
            data = value.encode() if isinstance(value, str) else value
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def fetched(key: str, caption: str, **more: Any) -> dict[str, Any]:
    """What img2dataset writes as `<key>.json`."""
    return {
        "caption": caption,
        "url": f"https://pictures.invalid/{key}",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 16,
        "height": 16,
        "original_width": 640,
        "original_height": 640,
        "exif": "{}",
        "sha256": "0" * 64,
        **more,
    }


def pair_members(key: str, caption: str, image: bytes, **more: Any) -> dict[str, bytes | str]:
    return {
        f"{key}.jpg": image,
        f"{key}.txt": caption,
        f"{key}.json": json.dumps(fetched(key, caption, **more), indent=4),
    }
