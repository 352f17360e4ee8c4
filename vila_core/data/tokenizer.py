"""The tokenizer that the token counts are made with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.errors import UserError, require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files out of a transformers folder. Raises UserError if there are none."""
    found = [name for name in _FILES if (source / name).is_file()]
    if "tokenizer.json" not in found and "tokenizer.model" not in found:
        raise UserError(
            f"{source}: holds no tokenizer.json; a transformers tokenizer or model folder is needed"
        )
    target.mkdir(parents=True)
    for name in found:
        shutil.copyfile(source / name, target / name)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `folder`, from its files only. Raises UserError if that fails."""
    require("transformers", extra="train", why="count tokens")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds here, all for a broken folder
        raise UserError(f"{folder}: the tokenizer can't be loaded: {error}") from error
