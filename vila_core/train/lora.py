"""LoRA: low-rank adapters of the language model train in its place, and are merged at the end.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", by peft's layers.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from vila_core.errors import UserError, require
from vila_core.train.config import LoraConfig

_NAME = "default"  # peft's word for the only adapter


class Adapters:
    """LoRA adapters inside a language model; its other parameters are frozen.

    The module keeps its class and forward pass: its linear layers are replaced by peft's. Their
    first values depend on `seed` alone, and change nothing of what the model computes. Raises
    UserError where peft is missing, and for target modules that the model doesn't have.
    """

    def __init__(self, language_model: nn.Module, config: LoraConfig, *, seed: int) -> None:
        require("peft", extra="lora", why="train with lora")
        import peft

        targets = config.target_modules
        self.config = peft.LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules="all-linear" if targets is None else list(targets),
            task_type=peft.TaskType.CAUSAL_LM,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self._tuner = peft.LoraModel(language_model, self.config, _NAME)
            except ValueError as error:
                if targets is None:
                    raise
                names = {n.split(".")[-1] for n, m in language_model.named_modules() if _linear(m)}
                raise UserError(
                    f"lora.target_modules: {', '.join(targets)}: the language model has no such "
                    f"linear layers; it has {', '.join(sorted(names))}."
                ) from error
        # What its numbers depend on beside the tensors: part of a checkpoint's fingerprint.
        self.settings = json.dumps(config.model_dump(mode="json"), sort_keys=True)

    @property
    def num_parameters(self) -> int:
        """Number of values that train."""
        return sum(p.numel() for p in self._tuner.model.parameters() if p.requires_grad)

    def save(self, folder: Path) -> None:
        """Write the adapters in peft's format: `PeftModel.from_pretrained(language_model, folder)`.

        The language model is that which they were trained on, not the merged one.
        """
        folder.mkdir(parents=True)
        tensors = {
            f"base_model.model.{name}".replace(f".{_NAME}.", "."): value.detach().contiguous().cpu()
            for name, value in self._tuner.model.state_dict().items()
            if ".lora_" in name
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self.config.inference_mode = True
        self.config.save_pretrained(str(folder))

    def merge(self) -> Any:
        """Add the adapters to the weights and return the language model without them."""
        with warnings.catch_warnings():
            # peft warns of tied weights that no adapter touches.
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
            model = self._tuner.merge_and_unload()
        for name in ("peft_config", "_hf_peft_config_loaded"):
            if name in vars(model):
                delattr(model, name)
        return model


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
