"""transformers' LLaVA. `<image>` is a row of its table, so the table is grown and cut again.

Written: the table has `image_token_id + 2` rows, rounded up to a multiple of 64, as transformers'
converter does it (`<image>`, a row for padding, the rest unused). Every row beyond the text's is
the mean of the text's rows, summed in float64 in the order of the rows. Read: rows from the text's
end on are left out; if they differ from what we would write they are kept beside the model, so
that the same folder can be written again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.model.layouts import keys, renaming, settings, tokens
from vila_core.model.layouts.contents import Contents, copy_sentencepiece
from vila_core.model.layouts.files import read_tensors, write_json, write_tensors
from vila_core.model.vision_tower import HAS_CLASS_TOKEN

NAME, NAME_452 = "transformers", "transformers-4.52"
PAIRS: dict[str, Callable[[str], keys.Pairs]] = {
    NAME: keys.transformers,
    NAME_452: keys.transformers_452,
}
TABLES = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
MULTIPLE = 64
TEXT_ROWS = "text_vocab_size"
"""Our key in config.json: how many rows of the table belong to the text."""
PLAIN = {"projector_hidden_act": "gelu", "multimodal_projector_bias": True}


def detect(folder: Path) -> bool:
    """Tell whether the folder has this layout."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    values = read_object(path)
    return values.get("model_type") == "llava" and "text_config" in values


def read(folder: Path, *, vision_tower: Path | None, convert_pickles: bool) -> Contents:
    """Read the layout, with either generation of names."""
    if vision_tower is not None:
        raise UserError(f"{folder}: has its own vision tower; leave --vision-tower out")
    where, values = folder / "config.json", read_object(folder / "config.json")
    for key, value in PLAIN.items():
        if values.get(key, value) != value:
            raise UserError(f"{where}: {key} {values[key]!r} is not supported, only {value!r}")
    theirs = read_tensors(folder, convert_pickles=convert_pickles)
    new = any(name.startswith("model.language_model.") for name in theirs)
    name = NAME_452 if new else NAME
    image = _image_id(values, where)
    rows = int(values.get(TEXT_ROWS, image))
    text = settings.without_older_names(dict(values.get("text_config") or {}))
    text = {"model_type": "llama", **text, "vocab_size": rows}
    if (text.get("pad_token_id") or 0) >= rows:
        text["pad_token_id"] = None
    config = settings.make_config(
        vision={"model_type": "clip_vision_model", **(values.get("vision_config") or {})},
        text=text,
        projector="mlp2x_gelu",
        layer=values.get("vision_feature_layer", -2),
        select={"default": "patch", "full": "cls_patch"}.get(
            values.get("vision_feature_select_strategy", "default"), "?"
        ),
        image_token_id=image,
        where=where,
    )
    tokenizer = tokens.read_tokenizer(folder, rows)
    _check_tokenizer(tokenizer, image, folder)
    tensors = renaming.drop_tied_head(
        renaming.to_ours(theirs, PAIRS[name]), bool(config.tie_word_embeddings)
    )
    tensors, beyond = _cut(tensors, rows, where)
    images = _image_settings(folder)
    padded, cropped = images.get("do_pad"), images.get("do_center_crop")
    fit = "pad" if padded else "crop" if cropped else "resize"
    kept = beyond if _unlike_ours(tensors, beyond, image) else {}
    return Contents(
        config=config,
        tensors=tensors,
        processor=settings.make_processor(tokenizer, config, images, fit),
        generation=tokens.read_generation(folder, tokenizer, rows),
        sentencepiece=tokens.sentencepiece_of(folder),
        origin=renaming.origin_of(theirs, name, kept),
    )


def write(contents: Contents, folder: Path, max_bytes: int, name: str = NAME) -> None:
    """Write the layout. Raises UserError for a projector other than the MLP of two layers."""
    config = contents.config
    settings.check_projector(config.projector, name, "mlp2x_gelu")
    origin, image = contents.origin, config.image_token_id
    kept = origin.rows if origin and origin.layout == name else {}
    grown = _grow(contents.tensors, kept, image)
    total = grown[TABLES[0]].shape[0]
    dtype = str(contents.dtype).removeprefix("torch.")
    kind = config.vision_config.model_type
    text = settings.for_older_readers(settings.plain(config.text_config))
    keeps_all = settings.select_of(config) == "cls_patch"
    strategy = "full" if keeps_all else "default"
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "text_config": text | {"vocab_size": total, "dtype": dtype, "torch_dtype": dtype},
            "vision_config": settings.plain(config.vision_config) | {"dtype": dtype},
            "image_token_index": image,
            "image_seq_length": config.tokens_per_image,
            "vision_feature_layer": config.vision_feature_layer,
            "vision_feature_select_strategy": strategy,
            "tie_word_embeddings": bool(config.tie_word_embeddings),
            "dtype": dtype,
            "torch_dtype": dtype,
            TEXT_ROWS: config.text_config.vocab_size,
            **PLAIN,
        },
    )
    images = settings.preprocessor(contents.processor, kind)
    if contents.processor.fit == "pad":
        images |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
        images |= {"do_center_crop": False}
    write_json(folder / settings.PREPROCESSOR, images)
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": config.vision_config.patch_size,
            "vision_feature_select_strategy": strategy,
            "num_additional_image_tokens": int(HAS_CLASS_TOKEN[kind]),
        },
    )
    tokens.write_tokenizer(contents.processor.tokenizer, folder)
    tokens.write_generation(contents.generation, folder)
    copy_sentencepiece(contents, folder)
    whole = renaming.to_theirs(_with(contents, grown), name, PAIRS[name])
    write_tensors(folder, whole, max_bytes)


def write_452(contents: Contents, folder: Path, max_bytes: int) -> None:
    """Write the layout with the names that transformers has in memory since 4.52."""
    write(contents, folder, max_bytes, NAME_452)


def fill(table: torch.Tensor) -> torch.Tensor:
    """Return the row that stands for ids beyond the text: the mean of a (rows, width) table.

    As a head's row it gives the mean of all logits, so that it is never the greatest.
    """
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for block in table.split(4096):
        rows = block.double().numpy()
        total += torch.from_numpy(rows.sum(axis=0))
    return (total / table.shape[0]).to(table.dtype)


def _grow(
    tensors: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], image: int
) -> dict[str, torch.Tensor]:
    grown = {}
    for name in TABLES:
        if name in tensors:
            table = tensors[name]
            extra = kept.get(name)
            if extra is None:
                missing = _rows(image) - table.shape[0]
                extra = fill(table).expand(missing, -1)
            grown[name] = torch.cat([table, extra])
    return {**tensors, **grown}


def _cut(
    tensors: Mapping[str, torch.Tensor], rows: int, where: Path
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    text, beyond = dict(tensors), {}
    for name in TABLES:
        if name in tensors:
            if tensors[name].shape[0] <= rows:
                raise UserError(
                    f"{where}: image_token_index {rows} is outside of the table of "
                    f"{tensors[name].shape[0]} rows"
                )
            text[name], beyond[name] = tensors[name][:rows], tensors[name][rows:]
    return text, beyond


def _unlike_ours(
    tensors: Mapping[str, torch.Tensor], beyond: Mapping[str, torch.Tensor], image: int
) -> bool:
    grown = _grow(tensors, {}, image)
    return not all(
        torch.equal(grown[name][tensors[name].shape[0] :], rows) for name, rows in beyond.items()
    )


def _rows(image: int) -> int:
    return -(-(image + 2) // MULTIPLE) * MULTIPLE


def _image_id(values: dict[str, Any], where: Path) -> int:
    image = values.get("image_token_index", values.get("image_token_id", 32000))
    if not isinstance(image, int) or image < 1:
        raise UserError(f"{where}: image_token_index {image!r} is not a token id")
    return image


def _check_tokenizer(tokenizer: Any, image: int, folder: Path) -> None:
    words = tokenizer.get_vocab()
    if words.get("<image>") != image:
        raise UserError(
            f"{folder}: '<image>' has id {words.get('<image>')} in the tokenizer and {image} in "
            "config.json"
        )
    beyond = sorted(word for word, number in words.items() if number > image and word != "<pad>")
    if beyond:
        raise UserError(
            f"{folder}: the tokenizer has words after '<image>' ({', '.join(beyond[:3])}); our "
            "model has no place for their embeddings"
        )


def _image_settings(folder: Path) -> dict[str, Any]:
    if (folder / settings.PREPROCESSOR).is_file():
        return read_object(folder / settings.PREPROCESSOR)
    if (folder / "processor_config.json").is_file():  # where transformers 5 keeps them
        inside = read_object(folder / "processor_config.json").get("image_processor")
        if isinstance(inside, dict):
            return inside
    raise UserError(
        f"{folder}: holds no {settings.PREPROCESSOR}, so the image mean and std are unknown"
    )


def _with(contents: Contents, tensors: Mapping[str, torch.Tensor]) -> Contents:
    from dataclasses import replace

    return replace(contents, tensors=tensors)
