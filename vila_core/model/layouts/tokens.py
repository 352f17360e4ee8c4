"""The tokenizer and the generation settings, in and out of a layout's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.model.layouts.contents import SENTENCEPIECE
from vila_core.model.layouts.files import write_json
from vila_core.model.processor import IMAGE_TOKEN, load_tokenizer

GENERATION = "generation_config.json"
OURS_ALONE = ("is_local", "local_files_only")


NO_LIMIT = 10**12
"""Tokenizers without a longest text say a number beyond this."""


def read_tokenizer(folder: Path, vocabulary: int, config: Mapping[str, Any] | None = None) -> Any:
    """Load a tokenizer whose `<image>` comes after the `vocabulary` rows of the text's table.

    `config` may name the longest text (`tokenizer_model_max_length`). Padding beyond the table
    becomes `<unk>`, as in the released code, or the end of text. Raises UserError when there is no
    tokenizer, or `<image>` is a word of the text.
    """
    tokenizer = load_tokenizer(folder, vocabulary=vocabulary)
    image: Any = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image < vocabulary:
        raise UserError(
            f"{folder}: '{IMAGE_TOKEN}' has id {image}, inside the language model's vocabulary of "
            f"{vocabulary}: it means something else there"
        )
    pad: Any = tokenizer.pad_token_id
    if pad is not None and pad >= vocabulary:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    longest = (config or {}).get("tokenizer_model_max_length")
    usual = (config or {}).get("max_position_embeddings")
    if isinstance(longest, int) and longest != usual:
        tokenizer.model_max_length = min(longest, tokenizer.model_max_length)
    return tokenizer


def max_length(tokenizer: Any, text_config: Any) -> int:
    """Return the longest text, for `tokenizer_model_max_length`."""
    limit = int(tokenizer.model_max_length)
    return limit if limit < NO_LIMIT else int(text_config.max_position_embeddings)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer and its chat template under the names that transformers 4 knows too."""
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    values = {name: value for name, value in read_object(path).items() if name not in OURS_ALONE}
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = values.pop("extra_special_tokens", None)
    if isinstance(extra, list):
        values["additional_special_tokens"] = extra
    elif extra:
        values["extra_special_tokens"] = extra
    write_json(path, values)


def read_generation(folder: Path, tokenizer: Any, vocabulary: int) -> dict[str, Any]:
    """Return the generation settings, with an end and a padding that the model has."""
    values = read_object(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    if values.get("eos_token_id") is None:
        values["eos_token_id"] = tokenizer.eos_token_id
    pad = values.get("pad_token_id")
    if pad is None or pad >= vocabulary:
        values["pad_token_id"] = tokenizer.pad_token_id
    return values


def write_generation(values: Mapping[str, Any], folder: Path) -> None:
    """Write the generation settings, if there are any."""
    if values:
        write_json(folder / GENERATION, values)


def sentencepiece_of(folder: Path) -> Path | None:
    """Return tokenizer.model, if the folder has one."""
    path = folder / SENTENCEPIECE
    return path if path.is_file() else None
