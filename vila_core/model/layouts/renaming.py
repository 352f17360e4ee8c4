"""Rename whole tables of tensors, and tell what a layout's own names look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from vila_core.model.layouts import keys
from vila_core.model.layouts.contents import Contents, Origin
from vila_core.model.layouts.files import read_tensors

Tensors = Mapping[str, torch.Tensor]


def to_ours(tensors: Tensors, pairs: Callable[[str], keys.Pairs]) -> dict[str, torch.Tensor]:
    """Return the tensors under our names, without constants."""
    table = pairs(keys.vision_prefix(tensors))
    return {
        keys.from_layout(name, table): tensor
        for name, tensor in tensors.items()
        if not keys.is_buffer(name)
    }


def to_theirs(
    contents: Contents, layout: str, pairs: Callable[[str], keys.Pairs]
) -> dict[str, torch.Tensor]:
    """Return the tensors under the layout's names; an import's own spelling is kept."""
    origin = contents.origin
    same = origin is not None and origin.layout == layout
    table = pairs(origin.vision_prefix if origin and same else keys.VISION_MODEL)
    return {keys.to_layout(name, table): tensor for name, tensor in contents.tensors.items()}


def origin_of(tensors: Tensors, layout: str, rows: Tensors | None = None) -> Origin:
    """Return what is to be remembered of an import."""
    return Origin(layout, keys.vision_prefix(tensors), rows or {})


def drop_tied_head(tensors: dict[str, torch.Tensor], tied: bool) -> dict[str, torch.Tensor]:
    """Leave out a head that is the table of embeddings, stored a second time."""
    head, table = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    same = tied and head in tensors and torch.equal(tensors[head], tensors[table])
    return {name: tensor for name, tensor in tensors.items() if not (same and name == head)}


def read_tower(folder: Path, *, convert_pickles: bool) -> dict[str, torch.Tensor]:
    """Return the tower in a transformers folder under our names, also of a whole CLIP or SigLIP."""
    tensors = read_tensors(folder, convert_pickles=convert_pickles)
    if keys.VISION_MODEL and any(name.startswith(keys.VISION_MODEL) for name in tensors):
        tensors = {
            name.removeprefix(keys.VISION_MODEL): tensor
            for name, tensor in tensors.items()
            if name.startswith(keys.VISION_MODEL)
        }
    return {
        f"vision_tower.{name}": tensor
        for name, tensor in tensors.items()
        if not keys.is_buffer(f".{name}")
    }
