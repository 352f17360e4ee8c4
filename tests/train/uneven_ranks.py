"""Trains the miniature VLM where one rank sees images and the other only text.

Run by `torchrun` with a folder and a ZeRO stage; rank 0 writes the losses and weights as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.train.tiny import Recorder, settings
from vila_core.model import VilaForConditionalGeneration, build_preset, freeze, load_preset
from vila_core.train.loop import fit
from vila_core.train.loss import IGNORED, vila_loss
from vila_core.types import Batch

STEPS = 4


class UnevenSource:
    """Two packs per step: the first with two images, the second without any."""

    fingerprint = "uneven"

    def __init__(self, model: VilaForConditionalGeneration, rank: int, world: int) -> None:
        self._config, self._rank, self._world = model.config, rank, world

    def initial_state(self) -> dict[str, Any]:
        return {"drawn": 0}

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        drawn = state["drawn"]
        while True:
            yield (
                [self._pack(drawn + n) for n in range(self._rank, 2, self._world)],
                {"drawn": drawn + 2},
            )
            drawn += 2

    def _pack(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(number)
        words = torch.randint(0, 30, (20,), generator=generator).tolist()
        images = 0 if number % 2 else 2
        places = [self._config.image_token_id] * self._config.tokens_per_image
        ids = torch.tensor([places * images + words])
        labels = ids.masked_fill(ids == self._config.image_token_id, IGNORED)
        labels[0, 0] = IGNORED
        tensors = {
            "input_ids": ids,
            "labels": labels,
            "position_ids": torch.arange(ids.shape[1])[None],
            "cu_seqlens": torch.tensor([0, ids.shape[1]], dtype=torch.int32),
            "pixel_values": torch.randn(images, 3, 32, 32, generator=generator),
        }
        supervised = float((labels != IGNORED).sum())
        return Batch(tensors, supervised, ids.shape[1], images, (f"uneven/{number}",))


def train(folder: Path, **engine: Any) -> tuple[VilaForConditionalGeneration, Recorder]:
    """Train projector, tower and language model for a few steps on this process's packs."""
    torch.manual_seed(0)
    model = build_preset(load_preset("miniature"))
    freeze(model, ("vision_tower", "projector", "language_model"))
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    config = settings(
        steps=STEPS, lr=1e-3, lr_projector=1e-3, packs_per_step=2, save_every=0, **engine
    )
    report = Recorder()
    source = UnevenSource(model, rank, world)
    fit(model, source, config, loss_fn=vila_loss, out_dir=folder, report=report)
    return model, report


def main(folder: Path, zero_stage: int) -> None:
    model, report = train(folder, engine="deepspeed", zero_stage=zero_stage)
    if os.environ.get("RANK", "0") == "0":
        norms = {name: float(p.detach().norm()) for name, p in model.named_parameters()}
        text = json.dumps({"losses": report.losses, "norms": norms})
        (folder / "result.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
