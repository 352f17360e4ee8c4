"""The vision tower: which ones fit, and which of its features the projector gets.

Shape letters: N images, P patches (and class token), C tower width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HAS_CLASS_TOKEN = {"clip_vision_model": True, "siglip_vision_model": False}
"""The supported towers by transformers' model type, and whether a class token comes first."""


def check_tower(config: Any, layer: int, projector_needs_grid: bool, select: str) -> None:
    """Raise ValueError unless the tower is known and has the layer and the grid that are asked for.

    `layer` is an index into its hidden states: the embeddings, then one per layer.
    """
    kind = getattr(config, "model_type", None)
    if kind not in HAS_CLASS_TOKEN:
        known = ", ".join(HAS_CLASS_TOKEN)
        raise ValueError(f"vision tower '{kind}' is not supported; supported are {known}")
    states = config.num_hidden_layers + 1
    if not -states <= layer < states:
        raise ValueError(
            f"vision_feature_layer {layer} does not exist: the tower has {states} hidden states, "
            f"{-states} to {states - 1}"
        )
    if projector_needs_grid and HAS_CLASS_TOKEN[kind] and select == "cls_patch":
        raise ValueError(
            "vision_feature_select 'cls_patch' does not go with a projector that merges the grid "
            "of patches: the class token stands outside of the grid; choose 'patch'"
        )


def is_frozen(tower: nn.Module) -> bool:
    """Tell whether no parameter of the tower trains."""
    return not any(parameter.requires_grad for parameter in tower.parameters())


def tower_features(
    tower: Any, pixel_values: torch.Tensor, *, layer: int, select: str
) -> torch.Tensor:
    """Return one layer's features, the class token dropped on request: (N, 3, H, W) -> (N, P, C).

    A frozen tower runs without gradient: half the cost, and no activations are kept.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(tower)):
        outputs = tower(pixel_values.to(tower.dtype), output_hidden_states=True)
        features_NPC = outputs.hidden_states[layer]
    if select == "patch" and HAS_CLASS_TOKEN[tower.config.model_type]:
        return features_NPC[:, 1:]
    return features_NPC
