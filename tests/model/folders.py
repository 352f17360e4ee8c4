"""Small towers, language models and tokenizers on disk, as `build` and `load` meet them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
TOWER = {**SHAPE, "image_size": 32, "patch_size": 8}
TEXT = {**SHAPE, "vocab_size": 64, "num_key_value_heads": 2}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def write_tower(folder: Path, kind: str = "clip_vision_model", **extra: Any) -> PreTrainedModel:
    """Write a vision tower; kind `clip` or `siglip` writes a whole one, with its text half."""
    if kind in ("clip", "siglip"):
        extra |= {"vision_config": TOWER, "text_config": {**SHAPE, "vocab_size": 50}}
    else:
        extra = {**TOWER, **extra}
    torch.manual_seed(0)
    tower = AutoModel.from_config(AutoConfig.for_model(kind, **extra))
    tower.save_pretrained(folder)
    values = {"image_mean": MEAN, "image_std": STD, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return tower


def write_language_model(folder: Path, kind: str = "llama", **extra: Any) -> PreTrainedModel:
    """Write a language model of 64 words and its tokenizer, which has no `<image>`."""
    torch.manual_seed(1)
    dtype = extra.pop("dtype", torch.float32)
    config = AutoConfig.for_model(kind, **{**TEXT, **extra})
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer: <pad> 0, <s> 1, </s> 2, <unk> 3, then w4 to w63."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{n}" for n in range(4, 64))]
    inner = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
