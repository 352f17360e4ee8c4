"""The config of the visual language model, as transformers saves and loads it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from transformers import AutoConfig, PreTrainedConfig

from vila_core.model.vision_tower import HAS_CLASS_TOKEN, check_tower

PROJECTORS = ("linear", "mlp2x_gelu", "mlp_downsample", "downsample", "transformer")
MERGING = ("mlp_downsample", "downsample")
"""Projectors that merge 2x2 neighbourhoods of the grid of patches into one token."""
FEATURES = ("patch", "cls_patch")


class VilaConfig(PreTrainedConfig):
    """Vision tower, projector and language model, and how image features are taken.

    `vision_feature_layer` indexes the tower's hidden states (-2: the last but one, as the paper's
    code does); `vision_feature_select` keeps the class token (`cls_patch`) or drops it (`patch`;
    towers without one, SigLIP's, give all patches either way). `image_token_id`
    lies outside of the language model's vocabulary, so no embedding belongs to it.

    Raises ValueError for an unknown projector, feature selection, tower or layer.
    """

    model_type = "vila"
    sub_configs: ClassVar = {"vision_config": AutoConfig, "text_config": AutoConfig}  # type: ignore

    def __init__(
        self,
        vision_config: dict[str, Any] | PreTrainedConfig | None = None,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        projector: str = "linear",
        vision_feature_layer: int = -2,
        vision_feature_select: str = "patch",
        image_token_id: int = -200,
        **kwargs: Any,
    ) -> None:
        if not (projector in PROJECTORS or is_mlp(projector)):
            raise ValueError(f"projector '{projector}' is not one of {', '.join(PROJECTORS)}")
        if vision_feature_select not in FEATURES:
            raise ValueError(
                f"vision_feature_select '{vision_feature_select}' is not one of {FEATURES}"
            )
        self.vision_config = _sub_config(vision_config, "siglip_vision_model")
        self.text_config = _sub_config(text_config, "llama")
        check_tower(
            self.vision_config, vision_feature_layer, projector in MERGING, vision_feature_select
        )
        self.projector = projector
        self.vision_feature_layer = vision_feature_layer
        self.vision_feature_select = vision_feature_select
        self.image_token_id = image_token_id
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def grid(self) -> int:
        """Patches per side of an image."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def tokens_per_image(self) -> int:
        """Visual tokens that one image takes in the language model's sequence."""
        if self.projector in MERGING:
            return math.ceil(self.grid / 2) ** 2
        class_token = HAS_CLASS_TOKEN[self.vision_config.model_type]
        return self.grid**2 + int(class_token and self.vision_feature_select == "cls_patch")


def is_mlp(projector: str) -> bool:
    """Tell whether the name is `mlpNx_gelu` with N >= 1."""
    return (
        projector.startswith("mlp") and projector.endswith("x_gelu") and projector[3:-6].isdigit()
    )


def _sub_config(value: dict[str, Any] | PreTrainedConfig | None, default: str) -> PreTrainedConfig:
    values = value.to_dict() if isinstance(value, PreTrainedConfig) else dict(value or {})
    config = AutoConfig.for_model(values.pop("model_type", default), **values)
    # Where a part was loaded from, and in which type it was stored, say nothing of the joined
    # model: its config must be the same bytes wherever it is made, and all of it has one dtype.
    config._name_or_path = ""
    config.dtype = torch.float32
    return config


AutoConfig.register("vila", VilaConfig)
