"""Configs between libraries: the language model's, the tower's, and how images are prepared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.model.config import VilaConfig, is_mlp
from vila_core.model.presets import load_preset
from vila_core.model.processor import Fit, VilaProcessor
from vila_core.model.vision_tower import HAS_CLASS_TOKEN

PREPROCESSOR = "preprocessor_config.json"
FITS: dict[str, Fit] = {"pad": "pad", "resize": "resize", "square": "crop"}
"""`image_aspect_ratio` of LLaVA and VILA, and ours."""
KNOWN_TOWERS = {"openai/clip-vit-large-patch14-336": "vila-7b"}
"""Towers that flat layouts name but don't describe, and the preset that has their shape."""
NOT_TRUSTED = ("_name_or_path", "resume_path")
"""Keys that hold folders of the machine that trained the model: neither read nor written."""


def plain(config: PreTrainedConfig) -> dict[str, Any]:
    """Return a config as its file would hold it."""
    values = json.loads(config.to_json_string(use_diff=True))
    return {key: value for key, value in values.items() if key not in NOT_TRUSTED}


def for_older_readers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a language model's config with the names that transformers 4 reads, beside its own."""
    rope = dict(values.get("rope_parameters") or {})
    out = dict(values)
    if "rope_theta" in rope:
        theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
        out["rope_theta"] = theta
        if kind != "default":
            out["rope_scaling"] = {**rope, "type": kind, "rope_type": kind}
    if "dtype" in values:
        out["torch_dtype"] = values["dtype"]
    return out


def text_config(values: Mapping[str, Any], kind: str, where: Path) -> dict[str, Any]:
    """Return a language model's config of model type `kind` alone, out of one that holds more."""
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{where}: '{kind}' is not a causal language model of transformers")
    known = set(AutoConfig.for_model(kind).to_dict()) | {"rope_theta", "rope_scaling"}
    kept = {key: value for key, value in values.items() if key in known}
    kept |= {"model_type": kind, "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]]}
    if not isinstance(kept.get("vocab_size"), int):
        raise UserError(f"{where}: has no vocab_size")
    return without_older_names(kept)


def without_older_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `for_older_readers`, and drop what is not to be trusted."""
    out = {key: value for key, value in values.items() if key not in NOT_TRUSTED}
    if "rope_parameters" in out:
        out.pop("rope_theta", None)
        out.pop("rope_scaling", None)
    if "dtype" in out:
        out.pop("torch_dtype", None)
    return out


def make_config(
    *,
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    projector: str,
    layer: Any,
    select: str,
    image_token_id: int,
    where: Path,
) -> VilaConfig:
    """Return our config. Raises UserError for what our model does not have."""
    if not isinstance(layer, int):
        raise UserError(f"{where}: the feature layer {layer!r} is not one number; not supported")
    try:
        config = VilaConfig(
            vision_config=dict(vision),
            text_config=dict(text),
            projector=projector,
            vision_feature_layer=layer,
            vision_feature_select=select,
            image_token_id=image_token_id,
        )
    except (ValueError, KeyError) as error:
        raise UserError(f"{where}: {error}") from None
    if select == "patch" and not HAS_CLASS_TOKEN[config.vision_config.model_type]:
        raise UserError(
            f"{where}: the features drop the first of the tower's patches, but a "
            f"{config.vision_config.model_type} has no class token there; not supported"
        )
    return config


def select_of(config: VilaConfig) -> str:
    """Return `patch` or `cls_patch`; a tower without class token keeps all it has."""
    has_class_token = HAS_CLASS_TOKEN[config.vision_config.model_type]
    return config.vision_feature_select if has_class_token else "cls_patch"


def tower_of(folder: Path) -> dict[str, Any]:
    """Return the config of the tower in a transformers folder, also of a whole CLIP or SigLIP."""
    values = read_object(folder / "config.json")
    values = without_older_names(values.get("vision_config") or values)
    kind = str(values.get("model_type", ""))
    if kind not in HAS_CLASS_TOKEN:
        raise UserError(
            f"{folder / 'config.json'}: vision tower '{kind}' is not supported; supported are "
            + ", ".join(HAS_CLASS_TOKEN)
        )
    return values


def known_tower(name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return config and image settings of a published tower, if we know its shape."""
    if name not in KNOWN_TOWERS:
        return None
    images = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD, "resample": 3}
    return dict(load_preset(KNOWN_TOWERS[name]).vision_config), images


def fit_of(aspect_ratio: Any, where: Path) -> Fit:
    """Return our word for `image_aspect_ratio`."""
    if aspect_ratio is None:
        return "crop"
    if aspect_ratio not in FITS:
        raise UserError(
            f"{where}: image_aspect_ratio '{aspect_ratio}' is not supported; supported are "
            + ", ".join(FITS)
        )
    return FITS[str(aspect_ratio)]


def aspect_ratio_of(fit: Fit) -> str:
    """Return the released code's word for ours."""
    return next(theirs for theirs, ours in FITS.items() if ours == fit)


def preprocessor(processor: VilaProcessor, tower: str) -> dict[str, Any]:
    """Return the transformers image processor that prepares images as ours does."""
    side = processor.image_size
    values: dict[str, Any] = {
        "image_mean": list(processor.mean),
        "image_std": list(processor.std),
        "resample": int(processor.resample),
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
    }
    square = {"height": side, "width": side}
    if tower == "siglip_vision_model" and processor.fit != "crop":
        return {**values, "image_processor_type": "SiglipImageProcessor", "size": square}
    return {
        **values,
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side} if processor.fit == "crop" else square,
        "crop_size": square,
        "do_center_crop": processor.fit == "crop",
    }


def make_processor(
    tokenizer: Any, config: VilaConfig, images: Mapping[str, Any], fit: str
) -> VilaProcessor:
    """Return our processor from the values of a preprocessor_config.json."""
    half = [0.5, 0.5, 0.5]
    return VilaProcessor(
        tokenizer,
        image_size=config.vision_config.image_size,
        tokens_per_image=config.tokens_per_image,
        mean=images.get("image_mean") or half,
        std=images.get("image_std") or half,
        fit=cast("Fit", fit),
        resample=int(images.get("resample") or 3),
    )


def check_projector(projector: str, layout: str, allowed: str) -> None:
    """Raise UserError if the layout has no place for the projector.

    `allowed` lists names; `mlp` stands for all of `mlpNx_gelu`.
    """
    names = allowed.split()
    if projector not in names and not (is_mlp(projector) and "mlp" in names):
        shown = ", ".join("mlpNx_gelu" if name == "mlp" else name for name in names)
        raise UserError(
            f"layout {layout} has no place for the projector '{projector}', only for {shown}.\n"
            "  fix: choose another --layout"
        )
