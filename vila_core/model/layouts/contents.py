"""A model as data: config, tensors under our names, tokenizer and image settings. And our folder.

Layouts turn folders into `Contents` and back. No tensor is computed with, so all bits stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.model.config import VilaConfig
from vila_core.model.layouts.files import read_tensors, write_json, write_tensors
from vila_core.model.processor import FILE_NAME, VilaProcessor
from vila_core.model.vlm import VilaForConditionalGeneration

ORIGIN, ORIGIN_ROWS = "import.json", "import_rows.safetensors"
SENTENCEPIECE = "tokenizer.model"


@dataclass(frozen=True)
class Origin:
    """Where an imported model came from: what its own layout needs to be written bit for bit.

    `vision_prefix` stood in front of the tower's names; `rows` are the embeddings and the head of
    ids beyond the text vocabulary, which our model has no use for.
    """

    layout: str
    vision_prefix: str
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """Everything that an import or an export carries over."""

    config: VilaConfig
    tensors: Mapping[str, torch.Tensor]
    processor: VilaProcessor
    generation: Mapping[str, Any]
    sentencepiece: Path | None = None
    origin: Origin | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the language model's weights."""
        return self.tensors["language_model.model.embed_tokens.weight"].dtype


def read_ours(folder: Path) -> Contents:
    """Read a model folder as `vila_core.model.save` writes it. Raises UserError if it is none."""
    if not (folder / FILE_NAME).is_file() or not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: is not a VILA model folder: {FILE_NAME} or config.json is missing"
        )
    values = read_object(folder / "config.json")
    if values.get("model_type") != VilaConfig.model_type:
        raise UserError(
            f"{folder}: is not a VILA model: config.json says model_type "
            f"'{values.get('model_type')}'.\n  fix: vila import it first"
        )
    generation = folder / "generation_config.json"
    sentencepiece = folder / SENTENCEPIECE
    return Contents(
        config=VilaConfig.from_pretrained(str(folder), local_files_only=True),
        tensors=read_tensors(folder),
        processor=VilaProcessor.from_pretrained(folder),
        generation=read_object(generation) if generation.is_file() else {},
        sentencepiece=sentencepiece if sentencepiece.is_file() else None,
        origin=_read_origin(folder),
    )


def write_ours(contents: Contents, folder: Path, max_bytes: int) -> None:
    """Write a folder that `vila_core.model.load` reads.

    Raises UserError unless the tensors are exactly those of the model that the config describes.
    """
    check_complete(contents)
    write_tensors(folder, contents.tensors, max_bytes)
    config = contents.config
    config.architectures = [VilaForConditionalGeneration.__name__]
    config.dtype = contents.dtype
    config.save_pretrained(str(folder))
    contents.processor.save_pretrained(folder)
    if contents.generation:
        write_json(folder / "generation_config.json", contents.generation)
    copy_sentencepiece(contents, folder)
    if contents.origin:
        _write_origin(contents.origin, folder)


def check_complete(contents: Contents) -> None:
    """Raise UserError naming the first tensor that is missing, unknown or of another shape."""
    with torch.device("meta"):
        model = VilaForConditionalGeneration(contents.config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if contents.config.tie_word_embeddings:  # the head is the table of embeddings, stored once
        wanted.pop("language_model.lm_head.weight", None)
    found = {name: tuple(value.shape) for name, value in contents.tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise UserError(f"the weights are not complete: '{name}' (our name) is missing")
        if name not in wanted:
            raise UserError(f"tensor '{name}' (our name) has no place in a model of this config")
        if wanted[name] != found[name]:
            raise UserError(
                f"tensor '{name}' (our name) has shape {found[name]}; the config says "
                f"{wanted[name]}"
            )


def copy_sentencepiece(contents: Contents, folder: Path) -> None:
    """Copy tokenizer.model, which older libraries read, when the model came with one."""
    if contents.sentencepiece:
        shutil.copyfile(contents.sentencepiece, folder / SENTENCEPIECE)


def _read_origin(folder: Path) -> Origin | None:
    if not (folder / ORIGIN).is_file():
        return None
    values = read_object(folder / ORIGIN)
    rows: dict[str, torch.Tensor] = {}
    if (folder / ORIGIN_ROWS).is_file():
        from safetensors.torch import load_file

        rows = load_file(str(folder / ORIGIN_ROWS))
    return Origin(str(values["layout"]), str(values["vision_prefix"]), rows)


def _write_origin(origin: Origin, folder: Path) -> None:
    values = {"layout": origin.layout, "vision_prefix": origin.vision_prefix}
    write_json(folder / ORIGIN, values)
    if origin.rows:
        from safetensors.torch import save_file

        rows = {name: tensor.contiguous().clone() for name, tensor in origin.rows.items()}
        save_file(rows, str(folder / ORIGIN_ROWS), metadata={"format": "pt"})
