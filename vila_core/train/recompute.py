"""Activation checkpointing: a layer's activations are computed again when backward needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from vila_core.errors import UserError
from vila_core.train.config import TrainConfig


@contextlib.contextmanager
def recomputing(model: nn.Module, config: TrainConfig) -> Iterator[None]:
    """Keep each layer's input alone inside, where `config.activation_checkpointing` asks for it.

    The layers that do are those of a transformers model that are in training mode: a frozen tower
    isn't, and keeps nothing in any case. Recomputation is in backward, outside of what the FLOP
    counter sees. Raises UserError for a model that has no such layers.
    """
    if not config.activation_checkpointing:
        yield
        return
    if not hasattr(model, "activation_checkpointing_enable"):
        raise UserError(
            f"activation_checkpointing: {type(model).__name__} is not a transformers model with "
            "layers to recompute; set it to false."
        )
    layered = cast("Any", model)
    layered.activation_checkpointing_enable({"use_reentrant": False})
    # It also makes embeddings ask for a gradient, which only the reentrant kind needs: wasted work.
    layered.disable_input_require_grads()
    try:
        yield
    finally:
        layered.activation_checkpointing_disable()
