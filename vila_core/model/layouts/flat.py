"""The flat layout of LLaVA-1.5 and VILA v1.0: one folder, one config, one table of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.model.layouts import keys, renaming, settings, tokens
from vila_core.model.layouts.contents import Contents, copy_sentencepiece
from vila_core.model.layouts.files import read_tensors, write_json, write_tensors

NAME = "llava"
LANGUAGE_MODELS = {
    "llava_llama": ("llama", "LlavaLlamaForCausalLM"),
    "llava_mistral": ("mistral", "LlavaMistralForCausalLM"),
    "llava_qwen": ("qwen2", "LlavaQwenForCausalLM"),
    "llava": ("llama", "LlavaLlamaForCausalLM"),  # LLaVA's own first name
}
MARKS = ("mm_projector_type", "mm_vision_tower", "use_mm_proj")
PROJECTORS = "linear mlp"


def detect(folder: Path) -> bool:
    """Tell whether the folder has this layout."""
    path = folder / "config.json"
    if not path.is_file() or (folder / "llm").is_dir():
        return False
    values = read_object(path)
    return "text_config" not in values and any(mark in values for mark in MARKS)


def read(folder: Path, *, vision_tower: Path | None, convert_pickles: bool) -> Contents:
    """Read the layout. A file without tower needs the folder of its tower in `vision_tower`."""
    where, values = folder / "config.json", read_object(folder / "config.json")
    text = _text_config(values, where)
    vision, images = _tower_settings(folder, values, vision_tower)
    theirs = read_tensors(folder, convert_pickles=convert_pickles)
    tensors = renaming.to_ours(theirs, keys.llava)
    if not any(name.startswith("vision_tower.") for name in tensors):
        if vision_tower is None:
            raise UserError(
                f"{folder}: holds no vision tower (it names '{values.get('mm_vision_tower')}').\n"
                "  fix: --vision-tower FOLDER, a local copy of that tower"
            )
        tensors |= renaming.read_tower(vision_tower, convert_pickles=convert_pickles)
    tokenizer = tokens.read_tokenizer(folder, text["vocab_size"], values)
    image: Any = tokenizer.convert_tokens_to_ids("<image>")
    config = settings.make_config(
        vision=vision,
        text=text,
        projector=str(values.get("mm_projector_type", "linear")),
        layer=values.get("mm_vision_select_layer", -2),
        select=str(values.get("mm_vision_select_feature", "patch")),
        image_token_id=image,
        where=where,
    )
    fit = settings.fit_of(values.get("image_aspect_ratio"), where)
    return Contents(
        config=config,
        tensors=renaming.drop_tied_head(tensors, bool(config.tie_word_embeddings)),
        processor=settings.make_processor(tokenizer, config, images, fit),
        generation=tokens.read_generation(folder, tokenizer, text["vocab_size"]),
        sentencepiece=tokens.sentencepiece_of(folder),
        origin=renaming.origin_of(theirs, NAME),
    )


def write(contents: Contents, folder: Path, max_bytes: int) -> None:
    """Write the layout, tower included. Raises UserError for parts that it has no place for."""
    config, text = contents.config, contents.config.text_config
    settings.check_projector(config.projector, NAME, PROJECTORS)
    names = {kind: (model, cls) for model, (kind, cls) in reversed(LANGUAGE_MODELS.items())}
    if text.model_type not in names:
        raise UserError(
            f"layout {NAME} has no place for the language model '{text.model_type}', only for "
            f"{', '.join(names)}.\n  fix: --layout vila15"
        )
    model_type, cls = names[text.model_type]
    values = settings.for_older_readers(settings.plain(text))
    write_json(
        folder / "config.json",
        values
        | {
            "architectures": [cls],
            "model_type": model_type,
            "dtype": str(contents.dtype).removeprefix("torch."),
            "torch_dtype": str(contents.dtype).removeprefix("torch."),
            "mm_vision_tower": _tower_name(settings.plain(config.vision_config)),
            "vision_config": settings.plain(config.vision_config),
            "mm_hidden_size": config.vision_config.hidden_size,
            "mm_projector_type": config.projector,
            "mm_vision_select_layer": config.vision_feature_layer,
            "mm_vision_select_feature": settings.select_of(config),
            "image_aspect_ratio": settings.aspect_ratio_of(contents.processor.fit),
            "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False,
            "mm_projector_lr": None,
            "mm_patch_merge_type": "flat",
            "use_mm_proj": True,
            "tune_mm_mlp_adapter": False,
            "freeze_mm_mlp_adapter": False,
            "tokenizer_model_max_length": tokens.max_length(contents.processor.tokenizer, text),
            "tokenizer_padding_side": "right",
        },
    )
    kind = config.vision_config.model_type
    write_json(folder / settings.PREPROCESSOR, settings.preprocessor(contents.processor, kind))
    tokens.write_tokenizer(contents.processor.tokenizer, folder)
    tokens.write_generation(contents.generation, folder)
    copy_sentencepiece(contents, folder)
    write_tensors(folder, renaming.to_theirs(contents, NAME, keys.llava), max_bytes)


def _text_config(values: dict[str, Any], where: Path) -> dict[str, Any]:
    model_type = str(values.get("model_type"))
    if model_type not in LANGUAGE_MODELS:
        raise UserError(
            f"{where}: model_type '{model_type}' is not known in layout {NAME}; known are "
            + ", ".join(LANGUAGE_MODELS)
        )
    kind, _ = LANGUAGE_MODELS[model_type]
    return settings.text_config(values, kind, where)


def _tower_settings(
    folder: Path, values: dict[str, Any], vision_tower: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tower's config and its image settings, from the first place that has them."""
    known = settings.known_tower(str(values.get("mm_vision_tower")))
    own, beside = folder / settings.PREPROCESSOR, values.get("vision_config")
    if vision_tower is not None:
        config = settings.tower_of(vision_tower)
        path = vision_tower / settings.PREPROCESSOR
        if not path.is_file() and not own.is_file():
            raise UserError(f"{vision_tower}: holds no {settings.PREPROCESSOR}")
        return config, read_object(path if path.is_file() else own)
    if isinstance(beside, dict):
        return beside, read_object(own)
    if known:
        return known[0], read_object(own) if own.is_file() else known[1]
    raise UserError(
        f"{folder / 'config.json'}: the shape of the vision tower "
        f"'{values.get('mm_vision_tower')}' is not known.\n"
        "  fix: --vision-tower FOLDER, a local copy of that tower"
    )


def _tower_name(vision: dict[str, Any]) -> str:
    for name in settings.KNOWN_TOWERS:
        known = settings.known_tower(name)
        if known and all(vision.get(key) == value for key, value in known[0].items()):
            return name
    return str(vision["model_type"])
