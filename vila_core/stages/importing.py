"""Import a vision tower or a language model from a local transformers folder: check, then copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.types import Reporter

_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOWER_FIELDS = ("hidden_size", "image_size", "patch_size")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def import_vision_tower(source: Path, folder: Path, report: Reporter) -> None:
    """Copy a CLIP or SigLIP (or its vision half alone) from `source` to `folder`.

    Raises UserError when a file is missing, weights are pickled or damaged, or it is no tower.
    """
    config = _config(source, "vision tower")
    tower = config.get("vision_config", config)
    missing = [name for name in _TOWER_FIELDS if name not in tower]
    kind = str(tower.get("model_type", config.get("model_type", "")))
    if missing or not ("clip" in kind or "siglip" in kind):
        raise UserError(
            f"{source / 'config.json'}: is not the config of a CLIP or SigLIP (model_type '{kind}'"
            + (f", without {', '.join(missing)}" if missing else "")
            + ").\n  fix: set vision_tower.source to the folder of such a model"
        )
    _require(source, "preprocessor_config.json", "it says how pictures are normalised")
    names = ["config.json", "preprocessor_config.json", *_weights(source)]
    _copy(source, folder, names)
    report.info(f"imported the vision tower {source}: {kind}, {len(names)} files")


def import_language_model(source: Path, folder: Path, report: Reporter) -> None:
    """Copy a causal language model with its tokenizer from `source` to `folder`.

    A tokenizer that has no `<image>` gets it as a special token, with an id from the end of the
    vocabulary on: no embedding is added. Raises UserError when a file is missing, weights are
    pickled or damaged, or the tokenizer is beyond what the model can embed.
    """
    config = _config(source, "language model")
    size = config.get("vocab_size")
    if not isinstance(size, int):
        raise UserError(
            f"{source / 'config.json'}: has no vocab_size; language_model.source must be the "
            "folder of a causal language model"
        )
    optional = [name for name in ("generation_config.json",) if (source / name).is_file()]
    tokenizer = [name for name in _TOKENIZER_FILES if (source / name).is_file()]
    if not any(name in tokenizer for name in ("tokenizer.json", "tokenizer.model")):
        _require(source, "tokenizer.json", "the text must be cut into this model's own words")
    _copy(source, folder, ["config.json", *optional, *tokenizer, *_weights(source)])
    _add_image_token(folder, size)
    report.info(f"imported the language model {source}: {config.get('model_type')}")


def _add_image_token(folder: Path, vocabulary: int) -> None:
    from transformers import AddedToken, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    known = tokenizer.get_vocab()
    if "<image>" in known:
        if known["<image>"] < vocabulary:
            raise UserError(
                f"{folder}: the tokenizer's '<image>' has id {known['<image>']}, inside the "
                f"model's vocabulary of {vocabulary}: it means something else there.\n"
                "  fix: use a language model whose tokenizer has no '<image>'"
            )
        return
    # Some models have more embedding rows than words: fill the ids up to the last row, so that
    # `<image>` comes after it.
    fillers = [f"<unused-row-{number}>" for number in range(len(tokenizer), vocabulary)]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in fillers])
    tokenizer.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    tokenizer.save_pretrained(str(folder))


def _config(source: Path, what: str) -> dict[str, Any]:
    if not source.is_dir():
        raise UserError(
            f"{source}: there is no such folder; the source of a {what} is 'miniature' or a local "
            "transformers folder"
        )
    _require(source, "config.json", "it says what model this is")
    return read_object(source / "config.json")


def _weights(source: Path) -> list[str]:
    """Return the weight files, each of them checked to be readable safetensors."""
    if (source / _INDEX).is_file():
        mapping = read_object(source / _INDEX).get("weight_map")
        if not isinstance(mapping, dict):
            raise UserError(f"{source / _INDEX}: has no weight_map")
        names = sorted({str(name) for name in mapping.values()})
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise UserError(f"{source / _INDEX}: names a file outside of its folder: {outside[0]}")
        extra = [_INDEX]
    elif (source / _WEIGHTS).is_file():
        names, extra = [_WEIGHTS], []
    else:
        pickled = sorted(path.name for path in source.iterdir() if path.suffix in _PICKLED)
        if pickled:
            raise UserError(
                f"{source}: holds only pickled weights ({', '.join(pickled)}); they can run code "
                "when they are read, and are refused.\n  fix: convert them once, where you trust "
                "them, with save_pretrained"
            )
        raise UserError(f"{source}: holds no {_WEIGHTS} and no {_INDEX}")
    for name in names:
        _check_safetensors(source / name)
    return names + extra


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: is named in {_INDEX} but is not there; copy it again")
    try:
        with safe_open(str(path), framework="np") as file:
            empty = not file.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: is damaged or no safetensors file ({error}); copy it again"
        ) from None
    if empty:
        raise UserError(f"{path}: holds no tensors")


def _require(source: Path, name: str, why: str) -> None:
    if not (source / name).is_file():
        raise UserError(f"{source}: holds no {name}; {why}")


def _copy(source: Path, folder: Path, names: Iterable[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
    folder.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, folder / name)
