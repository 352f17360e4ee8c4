"""Put a model together from its parts, from a preset's shapes, or load one that was saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig

from vila_core.errors import UserError
from vila_core.model import attention
from vila_core.model.config import VilaConfig
from vila_core.model.linear import speed_up
from vila_core.model.norm import fuse_norms
from vila_core.model.presets import ModelConfig, Preset
from vila_core.model.processor import FILE_NAME, VilaProcessor, load_tokenizer
from vila_core.model.projector import build_projector
from vila_core.model.vlm import VilaForConditionalGeneration

HALF = [0.5, 0.5, 0.5]
BICUBIC = 3


def build(
    vision_tower: Path, language_model: Path, config: ModelConfig
) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """Join a vision tower and a language model (transformers folders) by a fresh projector.

    Weights are loaded in float32, from safetensors only; the projector is initialised from
    `config.seed` alone. Raises UserError when a folder holds no such model, or not all of it.
    """
    vision_config, text_config = _vision_config(vision_tower), _load_config(language_model)
    tokenizer = load_tokenizer(language_model, vocabulary=getattr(text_config, "vocab_size", 0))
    image_token_id = int(tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    if image_token_id < text_config.vocab_size:
        raise UserError(
            f"{language_model}: '<image>' has id {image_token_id}, inside the language model's "
            f"vocabulary of {text_config.vocab_size}: it means something else there"
        )
    vila_config = make_config(config, vision_config, text_config, image_token_id)
    with torch.device("meta"):  # a frame without weights: the parts bring theirs
        model = VilaForConditionalGeneration(vila_config)
    model.vision_tower = _load_weights(AutoModel, vision_tower, config=vision_config)
    model.language_model = _load_weights(
        AutoModelForCausalLM, language_model, attn_implementation=attention.NAME
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.projector = build_projector(vila_config)
        model.projector.apply(model._init_weights)
    speed_up(model)
    fuse_norms(model)
    _set_generation(model, tokenizer)
    processor = VilaProcessor(
        tokenizer,
        image_size=vision_config.image_size,
        tokens_per_image=vila_config.tokens_per_image,
        fit=config.fit,
        **_normalisation(vision_tower),
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


def load(
    folder: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """Load a saved model, ready for inference. Raises UserError if it is none, or not complete."""
    if not (folder / FILE_NAME).is_file() or not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: is not a VILA model folder: {FILE_NAME} or config.json is missing"
        )
    kind = _load_config(folder).model_type
    if kind != VilaConfig.model_type:
        raise UserError(f"{folder}: is not a VILA model: config.json says model_type '{kind}'")
    model = _load_weights(VilaForConditionalGeneration, folder, dtype=dtype)
    return model.eval(), VilaProcessor.from_pretrained(folder)


def save(model: VilaForConditionalGeneration, processor: VilaProcessor, folder: Path) -> None:
    """Write weights (safetensors), config, tokenizer and processor to `folder`."""
    model.save_pretrained(str(folder))
    processor.save_pretrained(folder)


def _load_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: holds no config.json; a transformers model folder is needed")
    try:
        return AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'}: {_first_line(error)}") from None


def _load_weights(auto_class: Any, folder: Path, **options: Any) -> Any:
    """Load safetensors, all of them: transformers fills what is missing with random numbers."""
    try:
        model, found = auto_class.from_pretrained(
            str(folder),
            **{"dtype": torch.float32, **options},
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: can't be loaded: {_first_line(error)}") from None
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(
            f"{folder}: the weights are not complete: {len(missing)} tensors are missing, "
            f"first '{missing[0]}'; fix: fetch or export the folder again"
        )
    return model


def _set_generation(model: VilaForConditionalGeneration, tokenizer: Any) -> None:
    """Say where answers end."""
    ends = tokenizer.eos_token_id
    given = model.language_model.generation_config.eos_token_id
    if isinstance(given, list) and ends in given:
        ends = given  # chat models also end turns by tokens of their own
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id = ends, tokenizer.pad_token_id


def _vision_config(folder: Path) -> PreTrainedConfig:
    config = _load_config(folder)
    # A whole CLIP or SigLIP holds its tower inside.
    config = getattr(config, "vision_config", config)
    if not hasattr(config, "patch_size") or not hasattr(config, "image_size"):
        raise UserError(
            f"{folder}: is not a vision tower (its config has no patch_size and image_size)"
        )
    return config


def _normalisation(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: holds no preprocessor_config.json, so the image mean and std are unknown"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    return {
        "mean": values.get("image_mean") or HALF,
        "std": values.get("image_std") or HALF,
        "resample": int(values.get("resample") or BICUBIC),
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
