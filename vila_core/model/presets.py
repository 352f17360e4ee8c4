"""Architecture settings, and the named presets in configs/models. Light: imports no torch."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vila_core.config import Frozen, read_yaml, validate
from vila_core.errors import UserError


class ModelConfig(Frozen):
    """How vision tower and language model are joined."""

    projector: str = Field(
        "linear", description="linear, mlpNx_gelu, mlp_downsample, downsample, transformer"
    )
    vision_feature_layer: int = Field(-2, description="index into the tower's hidden states")
    vision_feature_select: Literal["patch", "cls_patch"] = Field(
        "patch", description="drop the class token, or keep all (SigLIP has none)"
    )
    fit: Literal["resize", "pad", "crop"] = Field("pad", description="how images become square")
    seed: int = Field(0, ge=0, description="of the projector's initialisation")


class Preset(Frozen):
    """One published model: its settings and the shapes of its parts."""

    description: str
    source: str = Field(description="where the values come from")
    model: ModelConfig
    vision_config: dict[str, Any] = Field(description="transformers config of the vision tower")
    text_config: dict[str, Any] = Field(description="transformers config of the language model")
    max_length: int = Field(gt=0, description="tokens per sequence, image tokens included")


def preset_names() -> list[str]:
    """Return the names of all presets."""
    folder = files("configs") / "models"
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_preset(name: str) -> Preset:
    """Read one preset. Raises UserError, with the nearest name, when there is none."""
    if name not in preset_names():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(preset_names())}."
        raise UserError(f"model preset '{name}' does not exist; {hint}")
    path = Path(str(files("configs") / "models" / f"{name}.yaml"))
    return validate(Preset, read_yaml(path), where=str(path))
