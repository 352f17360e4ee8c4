"""The visual language model: image features spliced into a causal language model's sequence.

Shape letters: B sequences, T tokens, N images, V visual tokens per image, D language model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from vila_core.model import attention
from vila_core.model.config import VilaConfig
from vila_core.model.head import target_loss
from vila_core.model.linear import speed_up
from vila_core.model.norm import fuse_norms
from vila_core.model.projector import build_projector
from vila_core.model.vision_tower import is_frozen, tower_features


class VilaForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Vision tower, projector and causal language model (paper section 2).

    `<image>` stands in `input_ids` as `config.tokens_per_image` copies of `config.image_token_id`
    per image, in reading order; `pixel_values` holds the images of the whole batch in that order.
    Raises ValueError for a language model whose attention can't keep to packs.
    """

    config: VilaConfig
    config_class = VilaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    adapter_settings: str = ""
    """What adapters in the language model depend on beside their tensors, for fingerprints."""

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config)
        check_language_model(config.text_config)
        config.text_config._attn_implementation = attention.NAME
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.projector = build_projector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()
        speed_up(self)
        fuse_norms(self)

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's embedding table; images have no entry in it."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()

    def train(self, mode: bool = True) -> VilaForConditionalGeneration:
        """Set training mode, except for a frozen vision tower: nothing in it is to vary."""
        super().train(mode)
        if is_frozen(self.vision_tower):
            self.vision_tower.eval()
        return self

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the projected features of images: (N, 3, H, W) -> (N, V, D)."""
        return self.project(self.tower_features(pixel_values))

    def tower_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the tower's features of images, not projected: (N, 3, H, W) -> (N, P, C)."""
        return tower_features(
            self.vision_tower,
            pixel_values,
            layer=self.config.vision_feature_layer,
            select=self.config.vision_feature_select,
        )

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Return the tower's features (N, P, C) as the language model takes them, (N, V, D)."""
        return self.projector(features.to(self.projector_dtype))

    @property
    def projector_dtype(self) -> torch.dtype:
        """The dtype of the projector's parameters."""
        return next(self.projector.parameters()).dtype

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        tower_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the sequence with image features in their places: (B, T) -> (B, T, D).

        `tower_features` (N, P, C) are given in place of pixels where they are known. Raises
        ValueError unless the image places are as many as the images need.
        """
        is_image_BT = input_ids == self.config.image_token_id
        embedded_BTD = self.get_input_embeddings()(input_ids.masked_fill(is_image_BT, 0))
        images = pixel_values if tower_features is None else tower_features
        num_images = 0 if images is None else images.shape[0]
        places, needed = int(is_image_BT.sum()), num_images * self.config.tokens_per_image
        if places != needed:
            raise ValueError(
                f"{num_images} images need {needed} image places "
                f"({self.config.tokens_per_image} each), but the text holds {places}"
            )
        if num_images:
            if tower_features is not None:
                features = self.project(tower_features).to(embedded_BTD.dtype)
            else:
                assert pixel_values is not None
                features = self.image_features(pixel_values).to(embedded_BTD.dtype)
            return embedded_BTD.masked_scatter(is_image_BT[..., None], features.flatten(0, 1))
        if self.training and torch.is_grad_enabled():
            # Text only: run the vision path on one grey image with weight zero, so that every rank
            # takes part in the same collectives and every trainable parameter has a gradient.
            size = self.config.vision_config.image_size
            grey = torch.zeros(1, 3, size, size, device=embedded_BTD.device)
            embedded_BTD = embedded_BTD + 0.0 * self.image_features(grey).sum().to(
                embedded_BTD.dtype
            )
        return embedded_BTD

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cu_seqlens: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        targets: torch.Tensor | None = None,
        target_weights: torch.Tensor | None = None,
        tower_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the model on padded sequences, or on one pack when `cu_seqlens` (S + 1,) is given.

        A pack is one row (1, T) of samples laid end to end, `position_ids` restarting with each;
        attention never crosses from one to the next. `logits_to_keep` may be a tensor of positions:
        only their logits are computed. With `targets` (N,), the words at these N positions of the
        one row, `loss` is their cross-entropy summed, in fp32, each times its `target_weights`
        (N,); `logits` are left out, because the usual language models then never make them all.
        `tower_features` (N, P, C) stand in for `pixel_values`.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("input_ids or inputs_embeds is needed")
            inputs_embeds = self.embed(input_ids, pixel_values, tower_features)
        layout = None
        if cu_seqlens is not None:
            if past_key_values is not None or attention_mask is not None:
                raise ValueError("a pack takes neither attention_mask nor past_key_values")
            if inputs_embeds.shape[0] != 1:
                raise ValueError(f"a pack is one row, found {inputs_embeds.shape[0]}")
            layout = attention.PackLayout(cu_seqlens, inputs_embeds.shape[1])
            if position_ids is None:
                position_ids = layout.position_ids
            use_cache = False
            kwargs["pack_layout"] = layout
            attention_mask = attention.no_mask(inputs_embeds.device)
        kwargs |= {
            "inputs_embeds": inputs_embeds,
            "position_ids": position_ids,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }
        if targets is None:
            outputs = self.language_model(labels=labels, logits_to_keep=logits_to_keep, **kwargs)
        else:
            assert isinstance(logits_to_keep, torch.Tensor)
            loss = target_loss(self.language_model, logits_to_keep, targets, target_weights, kwargs)
            outputs = CausalLMOutputWithPast(loss=loss)  # type: ignore[arg-type]
        layers = self.config.text_config.num_hidden_layers
        if layout is not None and layout.uses < layers:
            raise ValueError(
                f"{type(self.language_model).__name__} kept to the pack's boundaries in only "
                f"{layout.uses} of its {layers} layers: samples would see each other"
            )
        return outputs

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Give the images to the first step only: afterwards their keys and values are cached."""
        first = kwargs.get("is_first_iteration", False) or not kwargs.get("use_cache", True)
        inputs = super().prepare_inputs_for_generation(  # type: ignore
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        inputs["pixel_values"] = pixel_values if first else None
        return inputs

    def _expand_inputs_for_generation(  # type: ignore[override]
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat each sequence for beams or several answers, and its images as a group with it.

        transformers repeats the rows of every tensor one by one, but a sequence has any number of
        images: its second image would stand where the copy's first belongs.
        """
        pixels = model_kwargs.pop("pixel_values", None)
        if pixels is not None and input_ids is not None:
            places_B = (input_ids == self.config.image_token_id).sum(1)
            images_B = (places_B // self.config.tokens_per_image).tolist()
            if sum(images_B) == len(pixels):  # otherwise `embed` tells what is wrong
                pixels = torch.cat([g for g in pixels.split(images_B) for _ in range(expand_size)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(  # type: ignore
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if pixels is not None:
            model_kwargs["pixel_values"] = pixels
        return input_ids, model_kwargs


def check_language_model(config: Any) -> None:
    """Raise ValueError unless transformers' class for it calls the attention that we register.

    Models with their own attention code ignore it: packed samples would see each other, silently.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"'{config.model_type}' is not a causal language model of transformers")
    cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    chunked = getattr(config, "attention_chunk_size", None)  # known to the mask alone
    if chunked or not (cls._supports_sdpa and cls._supports_attention_backend):
        raise ValueError(
            f"language model '{config.model_type}' is not supported: its attention can't be "
            "replaced by one that keeps to the boundaries of a pack"
        )


AutoModel.register(VilaConfig, VilaForConditionalGeneration)
AutoModelForImageTextToText.register(VilaConfig, VilaForConditionalGeneration)
