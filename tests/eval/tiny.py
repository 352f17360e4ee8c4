"""A tiny VILA model that reads any text (bytes), for benchmarks in their official words."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.data.make import byte_level_chat
from tests.eval.test_generate import spread
from tests.model.folders import write_tower
from vila_core.model import ModelConfig, build, save


def write_tiny_vila(folder: Path, *, positions: int = 16_384, projector: str = "linear") -> Path:
    """Write a VILA folder with random weights and its own chat template; return the folder."""
    parts = folder.parent / f"{folder.name}-parts"
    write_tower(parts / "tower", "siglip_vision_model", vision_use_head=False)
    tokenizer = byte_level_chat()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    spread(model)
    model.save_pretrained(parts / "language")
    tokenizer.save_pretrained(parts / "language")
    made, processor = build(parts / "tower", parts / "language", ModelConfig(projector=projector))
    folder.mkdir(parents=True)
    save(made, processor, folder)
    return folder
