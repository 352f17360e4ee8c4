"""The layout of VILA-1.5: the folders llm/, mm_projector/ and vision_tower/ under a root config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.model.layouts import keys, renaming, settings, tokens
from vila_core.model.layouts.contents import Contents, copy_sentencepiece
from vila_core.model.layouts.files import read_tensors, write_json, write_tensors

NAME = "vila15"
FOLDERS = ("llm", "mm_projector", "vision_tower")
PROJECTORS = "linear mlp mlp_downsample"
NOT_OURS = ("s2", "dynamic_s2")


def detect(folder: Path) -> bool:
    """Tell whether the folder has this layout."""
    return all((folder / name).is_dir() for name in FOLDERS)


def read(folder: Path, *, vision_tower: Path | None, convert_pickles: bool) -> Contents:
    """Read the layout. Raises UserError for multi-scale models, which ours is not."""
    if vision_tower is not None:
        raise UserError(f"{folder}: has its own vision tower; leave --vision-tower out")
    where, root = folder / "config.json", read_object(folder / "config.json")
    for key in NOT_OURS:
        if root.get(key):
            raise UserError(f"{where}: {key} is on: models with several scales are not supported")
    theirs = {
        f"{part}/{name}": tensor
        for part in FOLDERS
        for name, tensor in read_tensors(folder / part, convert_pickles=convert_pickles).items()
    }
    language = read_object(folder / "llm" / "config.json")
    kind = str(language.get("model_type"))
    text = settings.text_config(language, kind, folder / "llm" / "config.json")
    projector = read_object(folder / "mm_projector" / "config.json")
    tokenizer = tokens.read_tokenizer(folder / "llm", text["vocab_size"], language)
    image: Any = tokenizer.convert_tokens_to_ids("<image>")
    config = settings.make_config(
        vision=settings.tower_of(folder / "vision_tower"),
        text=text,
        projector=str(projector.get("mm_projector_type", root.get("mm_projector_type"))),
        layer=root.get("mm_vision_select_layer", -2),
        select=str(root.get("mm_vision_select_feature", "cls_patch")),
        image_token_id=image,
        where=where,
    )
    images = read_object(folder / "vision_tower" / settings.PREPROCESSOR)
    fit = settings.fit_of(root.get("image_aspect_ratio"), where)
    tensors = renaming.to_ours(theirs, keys.vila15)
    return Contents(
        config=config,
        tensors=renaming.drop_tied_head(tensors, bool(config.tie_word_embeddings)),
        processor=settings.make_processor(tokenizer, config, images, fit),
        generation=tokens.read_generation(folder / "llm", tokenizer, text["vocab_size"]),
        sentencepiece=tokens.sentencepiece_of(folder / "llm"),
        origin=renaming.origin_of(theirs, NAME),
    )


def write(contents: Contents, folder: Path, max_bytes: int) -> None:
    """Write the layout. Raises UserError for a projector that the released code does not have."""
    config, text = contents.config, contents.config.text_config
    settings.check_projector(config.projector, NAME, PROJECTORS)
    dtype = str(contents.dtype).removeprefix("torch.")
    llm = settings.for_older_readers(settings.plain(text)) | {
        "dtype": dtype,
        "torch_dtype": dtype,
        "tokenizer_model_max_length": tokens.max_length(contents.processor.tokenizer, text),
        "tokenizer_padding_side": "right",
    }
    tower = settings.plain(config.vision_config) | {"dtype": dtype, "torch_dtype": dtype}
    projector = {
        "architectures": ["MultimodalProjector"],
        "model_type": "v2l_projector",
        "mm_projector_type": config.projector,
        "torch_dtype": dtype,
    }
    root = {
        "architectures": ["LlavaLlamaModel"],
        "model_type": "llava_llama",
        "llm_cfg": llm,
        "mm_projector_cfg": projector,
        "vision_tower_cfg": tower,
        "hidden_size": text.hidden_size,
        "mm_hidden_size": config.vision_config.hidden_size,
        "image_aspect_ratio": settings.aspect_ratio_of(contents.processor.fit),
        "interpolate_mode": "linear",
        "drop_path_rate": 0.0,
        "mm_vision_select_feature": settings.select_of(config),
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_projector_lr": None,
        "model_dtype": f"torch.{dtype}",
        "num_video_frames": 8,
        "resume_path": None,
        "s2": False,
        "tune_language_model": True,
        "tune_mm_projector": True,
        "tune_vision_tower": True,
        "vision_resolution": -1,
    }
    for part, values in (
        (".", root),
        ("llm", llm),
        ("mm_projector", projector),
        ("vision_tower", tower),
    ):
        write_json(folder / part / "config.json", values)
    write_json(
        folder / "vision_tower" / settings.PREPROCESSOR,
        settings.preprocessor(contents.processor, config.vision_config.model_type),
    )
    tokens.write_tokenizer(contents.processor.tokenizer, folder / "llm")
    tokens.write_generation(contents.generation, folder / "llm")
    copy_sentencepiece(contents, folder / "llm")
    theirs = renaming.to_theirs(contents, NAME, keys.vila15)
    for part in FOLDERS:
        its = {
            name.removeprefix(f"{part}/"): tensor
            for name, tensor in theirs.items()
            if name.startswith(f"{part}/")
        }
        write_tensors(folder / part, its, max_bytes)
