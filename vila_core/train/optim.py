"""AdamW over named parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vila_core.errors import UserError
from vila_core.train.config import TrainConfig


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups over the parameters of `model` that require a gradient.

    Matrices decay; vectors (norms, biases) don't. Parameters below a module whose name contains
    `projector` get `lr_projector` where it is set, and likewise those of the vision tower and the
    language model. Each group carries `peak_lr`, from which the
    loop computes `lr` at each step. Raises UserError when nothing requires a gradient.
    """
    rates = config.lr_of_parts()
    grouped: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = _peak_lr(name, rates, config.lr)
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        grouped.setdefault((lr, decay), []).append(parameter)
    if not grouped:
        raise UserError("nothing to train: every parameter of the model is frozen (see `trains`).")
    return [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in grouped.items()
    ]


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return torch's AdamW for `model`.

    The fused kernel: on CPU it is one call per group rather than a dozen per tensor, which counts
    for small models.
    """
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _peak_lr(name: str, rates: dict[str, float], default: float) -> float:
    for part, lr in rates.items():
        if any(part in module for module in name.split(".")):
            return lr
    return default


def set_lr(groups: list[dict[str, Any]], factor: float) -> None:
    """Set each group's `lr` to its `peak_lr` times `factor`."""
    for group in groups:
        group["lr"] = group["peak_lr"] * factor
