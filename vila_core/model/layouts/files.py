"""Weights on disk: sharded safetensors with an index; pickles only by explicit wish."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vila_core.errors import UserError
from vila_core.jsonio import dumps, read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DEFAULT_SHARD = "5GB"


def read_tensors(folder: Path, *, convert_pickles: bool = False) -> dict[str, torch.Tensor]:
    """Return all tensors of a folder, as they are stored.

    Pickled files can run code when they are read: without `convert_pickles` they are refused, with
    it they are read as plain tensors (`weights_only`). Raises UserError for these, and for files
    that are missing or damaged.
    """
    names = _listed(folder, INDEX, SINGLE)
    if names:
        return _merge(folder, names, _read_safetensors)
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if not pickled:
        raise UserError(f"{folder}: holds no {SINGLE} and no {INDEX}")
    if not convert_pickles:
        raise UserError(
            f"{folder}: holds only pickled weights ({', '.join(pickled[:3])}); they can run code "
            "when they are read, and are refused.\n"
            "  fix: --convert-pickles reads them as plain tensors, and refuses everything else"
        )
    names = _listed(folder, PICKLED_INDEX, PICKLED) or pickled
    return _merge(folder, names, _read_pickle)


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], max_bytes: int) -> None:
    """Write safetensors of at most `max_bytes` each (one tensor at least), and their index.

    Tensors go in the order of their names, so equal tensors give equal files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors):
        size = _bytes(tensors[name])
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        part = {name: tensors[name].detach().contiguous().clone() for name in names}
        save_file(part, str(folder / file), metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(_bytes(tensor) for tensor in tensors.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def parse_size(text: str) -> int:
    """Return the bytes of `5GB`, `200MiB` or `4096`. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in UNITS:
        raise UserError(f"--max-shard-size '{text}' is no size; fix: for example 5GB or 500MB")
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if size < 1:
        raise UserError(f"--max-shard-size '{text}' must be at least one byte")
    return size


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(dict(value), indent=2) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the digest (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(folder: Path, index: str, single: str) -> list[str]:
    if not (folder / index).is_file():
        return [single] if (folder / single).is_file() else []
    mapping = read_object(folder / index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"{folder / index}: has no weight_map")
    names = sorted({str(name) for name in mapping.values()})
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{folder / index}: names a file outside of its folder: {name}")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is named in {index} but is not there; copy it again")
    return names


def _merge(folder: Path, names: list[str], read: Any) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        part = read(folder / name)
        double = sorted(set(part) & set(tensors))
        if double:
            raise UserError(f"{folder / name}: holds '{double[0]}', which another file has too")
        tensors |= part
    return tensors


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: is damaged or no safetensors file ({error}); copy it again"
        ) from None


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile file brings about
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: holds something other than plain tensors, or is damaged, and is refused: "
            f"{reason}"
        ) from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise UserError(f"{path}: is not a table of named tensors, and is refused")
    return found


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
