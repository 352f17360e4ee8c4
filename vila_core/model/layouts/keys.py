"""Names of tensors: ours, and each layout's. Renaming swaps the longest prefix that fits.

The tables follow facts on the released files: flat LLaVA-1.5 and VILA v1.0, VILA-1.5's folders
(written here as `folder/name`), and transformers' LLaVA in both generations of names.
"""

from __future__ import annotations

from collections.abc import Iterable

from vila_core.errors import UserError

Pairs = tuple[tuple[str, str], ...]
VISION_MODEL = "vision_model."
"""What CLIP and SigLIP towers put in front of their names until transformers 5."""
BUFFERS = (".rotary_emb.inv_freq", ".embeddings.position_ids")
"""Constants that older files hold beside the weights; models compute them anew."""


def llava(prefix: str = VISION_MODEL) -> Pairs:
    """Return (ours, theirs) of the flat layout."""
    return (
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
        ("projector.", "model.mm_projector."),
        ("vision_tower.", f"model.vision_tower.vision_tower.{prefix}"),
    )


def vila15(prefix: str = VISION_MODEL) -> Pairs:
    """Return (ours, theirs) of the three folders."""
    return (
        ("language_model.", "llm/"),
        ("projector.", "mm_projector/layers."),
        ("vision_tower.", f"vision_tower/{prefix}"),
    )


def transformers(prefix: str = VISION_MODEL) -> Pairs:
    """Return (ours, theirs) of transformers' LLaVA: names before 4.52, and in files to this day."""
    return (
        ("language_model.", "language_model."),
        ("projector.0.", "multi_modal_projector.linear_1."),
        ("projector.2.", "multi_modal_projector.linear_2."),
        ("vision_tower.", f"vision_tower.{prefix}"),
    )


def transformers_452(prefix: str = VISION_MODEL) -> Pairs:
    """Return (ours, theirs) of transformers' LLaVA: names in memory since 4.52."""
    return (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("projector.0.", "model.multi_modal_projector.linear_1."),
        ("projector.2.", "model.multi_modal_projector.linear_2."),
        ("vision_tower.", f"model.vision_tower.{prefix}"),
    )


def to_layout(name: str, pairs: Pairs) -> str:
    """Return the layout's name for one of ours. Raises UserError when it has none."""
    return _swap(name, pairs)


def from_layout(name: str, pairs: Pairs) -> str:
    """Return our name for one of the layout's. Raises UserError when we have none."""
    return _swap(name, tuple((theirs, ours) for ours, theirs in pairs))


def is_buffer(name: str) -> bool:
    """Tell whether the tensor is a constant that no file needs to hold."""
    return name.endswith(BUFFERS)


def vision_prefix(names: Iterable[str]) -> str:
    """Return `vision_model.` if the tower's names have it, and nothing otherwise."""
    towers = [name for name in names if "vision_tower" in name]
    return VISION_MODEL if any(VISION_MODEL in name for name in towers) else ""


def _swap(name: str, pairs: Pairs) -> str:
    fitting = [pair for pair in pairs if name.startswith(pair[0])]
    if not fitting:
        raise UserError(f"tensor '{name}' belongs to no part of this layout")
    before, after = max(fitting, key=lambda pair: len(pair[0]))
    return after + name[len(before) :]
