"""The model that a recipe would train, by its shape alone: no weights are read or made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.errors import UserError
from vila_core.model.presets import ModelConfig, load_preset, preset_names
from vila_core.train.estimate import Shape, shape_of
from vila_ops.recipes import Recipe

MINIATURE = "miniature"


@dataclass(frozen=True)
class PlannedModel:
    """A shape, and where it comes from."""

    name: str
    shape: Shape


def planned_model(recipe: Recipe, preset: str | None = None) -> PlannedModel:
    """Return the model of `recipe`: of its folders, or of a preset where they are missing.

    `preset` names one to use instead, with the preset's own way of joining. Raises UserError for
    an unknown preset, and when folders are missing and no preset is like the recipe.
    """
    if preset is not None:
        return PlannedModel(f"preset {preset}", _shape(*_parts(preset), load_preset(preset).model))
    join = getattr(recipe.configs.get("align"), "model", None)
    tower, language = (recipe.configs.get(key) for key in ("vision_tower", "language_model"))
    sources = [str(getattr(one, "source", MINIATURE)) for one in (tower, language)]
    folders = [Path(source).expanduser() for source in sources]
    if all(source == MINIATURE for source in sources):
        join = join or load_preset(MINIATURE).model
        vision, text = _parts(MINIATURE)
        vision |= dict(tower.miniature.vision) if tower else {}  # type: ignore[attr-defined]
        text |= dict(language.miniature.model) if language else {}  # type: ignore[attr-defined]
        return PlannedModel("the miniature world's", _shape(vision, text, join))
    if all((folder / "config.json").is_file() for folder in folders):
        join = join or load_preset(MINIATURE).model
        vision, text = (_config(folder) for folder in folders)
        vision = getattr(vision, "vision_config", vision)
        return PlannedModel(f"{folders[0]} and {folders[1]}", _shape(vision, text, join))
    name = _like(recipe.name, folders[1].name)
    if name is None:
        missing = next(f for f in folders if not (f / "config.json").is_file())
        raise UserError(
            f"{missing}: holds no config.json, and no preset is like recipe '{recipe.name}'.\n"
            f"  fix: name one with --model: {', '.join(preset_names())}."
        )
    join = join or load_preset(name).model
    return PlannedModel(
        f"preset {name} (models of the recipe are not here)", _shape(*_parts(name), join)
    )


def _like(recipe: str, language_model: str) -> str | None:
    """Return the preset named as the recipe, or with the language model's size in its name."""
    if recipe in preset_names():
        return recipe
    for size in ("13b", "7b"):
        if size in language_model.lower().split("-") and f"vila-{size}" in preset_names():
            return f"vila-{size}"
    return None


def _parts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    preset = load_preset(name)
    return dict(preset.vision_config), dict(preset.text_config)


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder / 'config.json'}: {first}") from None


def _shape(vision: Any, text: Any, join: ModelConfig) -> Shape:
    import torch

    from vila_core.model.assembly import make_config
    from vila_core.model.vlm import VilaForConditionalGeneration

    # Any id beyond the vocabulary will do: images have no embedding.
    config = make_config(join, vision, text, image_token_id=2**31 - 1)
    with torch.device("meta"):
        try:
            return shape_of(VilaForConditionalGeneration(config))
        except ValueError as error:
            raise UserError(f"model: {error}") from None
