"""Put a model together from its parts, from a preset's shapes, or load one that was saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig

from vila_core.errors import UserError
from vila_core.model.config import VilaConfig
from vila_core.model.presets import ModelConfig, Preset
from vila_core.model.processor import FILE_NAME, VilaProcessor, load_tokenizer
from vila_core.model.vlm import VilaForConditionalGeneration

HALF = (0.5, 0.5, 0.5)


def build(
    vision_tower: Path, language_model: Path, config: ModelConfig
) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """Join a vision tower and a language model (transformers folders) by a fresh projector.

    Weights are loaded in float32; the projector is initialised from `config.seed` alone. Raises
    UserError when a folder holds no such model.
    """
    vision_config = _vision_config(vision_tower)
    text_config = _load_config(language_model)
    tokenizer = load_tokenizer(language_model)
    image_token_id = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    if image_token_id < text_config.vocab_size:
        raise UserError(
            f"{language_model}: '<image>' has id {image_token_id}, inside the language model's "
            f"vocabulary of {text_config.vocab_size}; it must lie outside: no embedding is its own"
        )
    vila_config = make_config(config, vision_config, text_config, image_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = VilaForConditionalGeneration(vila_config)
    tower = AutoModel.from_pretrained(
        str(vision_tower), config=vision_config, dtype=torch.float32, local_files_only=True
    )
    model.vision_tower.load_state_dict(tower.state_dict())
    language = AutoModelForCausalLM.from_pretrained(
        str(language_model), dtype=torch.float32, local_files_only=True
    )
    model.language_model.load_state_dict(language.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    mean, std = _normalisation(vision_tower)
    processor = VilaProcessor(
        tokenizer,
        image_size=vision_config.image_size,
        tokens_per_image=vila_config.tokens_per_image,
        mean=mean,
        std=std,
        fit=config.fit,
    )
    return model.eval(), processor


def make_config(
    config: ModelConfig,
    vision_config: PreTrainedConfig | dict[str, Any],
    text_config: PreTrainedConfig | dict[str, Any],
    image_token_id: int,
) -> VilaConfig:
    """Return the transformers config of a joined model. Raises UserError for a wrong projector."""
    try:
        return VilaConfig(
            vision_config=vision_config,  # type: ignore[arg-type]
            text_config=text_config,  # type: ignore[arg-type]
            projector=config.projector,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select=config.vision_feature_select,
            image_token_id=image_token_id,
        )
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def build_preset(preset: Preset) -> VilaForConditionalGeneration:
    """Return a preset's model with random weights (under `torch.device("meta")`: none at all)."""
    config = make_config(
        preset.model,
        dict(preset.vision_config),
        dict(preset.text_config),
        image_token_id=int(preset.text_config["vocab_size"]),
    )
    return VilaForConditionalGeneration(config)


def load(folder: Path) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """Load a saved model in float32, ready for inference. Raises UserError if it is none."""
    if not (folder / FILE_NAME).is_file() or not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: is not a VILA model folder: {FILE_NAME} or config.json is missing"
        )
    model = VilaForConditionalGeneration.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True
    )
    return model.eval(), VilaProcessor.from_pretrained(folder)


def save(model: VilaForConditionalGeneration, processor: VilaProcessor, folder: Path) -> None:
    """Write weights (safetensors), config, tokenizer and processor to `folder`."""
    model.save_pretrained(str(folder))
    processor.save_pretrained(folder)


def _load_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: holds no config.json; a transformers model folder is needed")
    return AutoConfig.from_pretrained(str(folder), local_files_only=True)


def _vision_config(folder: Path) -> PreTrainedConfig:
    config = _load_config(folder)
    config = getattr(
        config, "vision_config", config
    )  # a whole CLIP or SigLIP holds its tower inside
    if not hasattr(config, "patch_size") or not hasattr(config, "image_size"):
        raise UserError(
            f"{folder}: is not a vision tower (its config has no patch_size and image_size)"
        )
    return config


def _normalisation(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: holds no preprocessor_config.json, so the image mean and std are unknown"
        )
    values = json.loads(path.read_text())
    return values.get("image_mean", HALF), values.get("image_std", HALF)
