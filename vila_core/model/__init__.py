"""Vision tower, projector and language model, and what joins, saves and freezes them.

Names are imported on first use: reading a preset or a stage's config needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vila_core.model.assembly import build, build_preset, load, save
    from vila_core.model.config import VilaConfig
    from vila_core.model.freezing import PARTS, STAGE_TRAINS, freeze
    from vila_core.model.presets import ModelConfig, Preset, load_preset, preset_names
    from vila_core.model.processor import VilaProcessor, load_tokenizer
    from vila_core.model.vlm import VilaForConditionalGeneration

_HOME = {
    "ModelConfig": "presets",
    "PARTS": "freezing",
    "Preset": "presets",
    "STAGE_TRAINS": "freezing",
    "VilaConfig": "config",
    "VilaForConditionalGeneration": "vlm",
    "VilaProcessor": "processor",
    "build": "assembly",
    "build_preset": "assembly",
    "freeze": "freezing",
    "load": "assembly",
    "load_preset": "presets",
    "load_tokenizer": "processor",
    "preset_names": "presets",
    "save": "assembly",
}
__all__ = [
    "PARTS",
    "STAGE_TRAINS",
    "ModelConfig",
    "Preset",
    "VilaConfig",
    "VilaForConditionalGeneration",
    "VilaProcessor",
    "build",
    "build_preset",
    "freeze",
    "load",
    "load_preset",
    "load_tokenizer",
    "preset_names",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
