"""Projectors: from image features of the vision tower to the language model's width.

Shape letters: N images, P patches, C tower width, D language model width.
"""

from __future__ import annotations

import torch
from torch import nn

from vila_core.model.config import VilaConfig, is_mlp


def build_projector(config: VilaConfig) -> nn.Module:
    """Return the projector that `config.projector` names; all map (N, P, C) to (N, T, D)."""
    width_in, width_out = config.vision_config.hidden_size, config.text_config.hidden_size
    kind = config.projector
    if kind == "linear":  # the paper's final choice (section 3.1)
        return nn.Linear(width_in, width_out)
    if is_mlp(kind):  # the released code's choice for VILA-7b and 13b
        return mlp(width_in, width_out, depth=int(kind[3:-6]))
    if kind == "mlp_downsample":  # VILA-1.5
        return nn.Sequential(
            Downsample(),
            nn.LayerNorm(4 * width_in),
            nn.Linear(4 * width_in, width_out),
            nn.GELU(),
            nn.Linear(width_out, width_out),
        )
    if kind == "downsample":  # the paper's Table 7: a 2x2 merge and one linear layer
        return nn.Sequential(Downsample(), nn.Linear(4 * width_in, width_out))
    return TransformerProjector(width_in, width_out, num_patches=config.tokens_per_image)


def mlp(width_in: int, width_out: int, depth: int) -> nn.Sequential:
    """Return Linear, then (depth - 1) times GELU and Linear."""
    layers: list[nn.Module] = [nn.Linear(width_in, width_out)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width_out, width_out)]
    return nn.Sequential(*layers)


class Downsample(nn.Module):
    """Merge each 2x2 neighbourhood of the patch grid into one token of four times the width.

    The order of the merged tokens follows VILA-1.5's released projector (base_projector.py), whose
    grid comes out with width and height swapped; released weights fit only this permutation. An odd
    grid is padded with zeros on the far edge.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, side * side, C) to (N, ceil(side / 2) ** 2, 4 * C)."""
        n, num_patches, c = features.shape
        side = round(num_patches**0.5)
        if side * side != num_patches:
            raise ValueError(f"a square grid of patches is needed, found {num_patches} patches")
        grid = features.reshape(n, side, side, c)
        if side % 2:
            grid = nn.functional.pad(grid, (0, 0, 0, 1, 0, 1))
            side += 1
        half = side // 2
        # First pairs along the second axis, then along the first: the released order, transposed.
        merged = grid.reshape(n, side, half, 2 * c).permute(0, 2, 1, 3)
        return merged.reshape(n, half * half, 4 * c)


class TransformerProjector(nn.Module):
    """One pre-norm transformer block over the patches, then a linear layer (paper Table 1, a to c).

    The paper names a "Transformer block" without size or depth, and released no code of it. Ours:
    learned positions, heads of 64 (or fewer for narrow towers), an MLP of four times the width.
    """

    def __init__(self, width_in: int, width_out: int, num_patches: int) -> None:
        super().__init__()
        heads = max(1, width_in // 64)
        while width_in % heads:
            heads -= 1
        self.positions = nn.Parameter(torch.zeros(1, num_patches, width_in))
        self.block = nn.TransformerEncoderLayer(
            width_in,
            heads,
            dim_feedforward=4 * width_in,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.norm = nn.LayerNorm(width_in)
        self.out = nn.Linear(width_in, width_out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, P, C) to (N, P, D)."""
        return self.out(self.norm(self.block(features + self.positions)))
