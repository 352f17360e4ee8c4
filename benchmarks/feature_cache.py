"""A training step with the frozen tower's features from the cache against one that computes them.

Language model, packs, loss and settings are those of `train_throughput.py`, one pack per step and
fp32. Two towers: that one's (4 x 128, 36 patches of an image for 36 places in the sequence, as
LLaVA and VILA have it), and one of 6 x 128 whose 144 patches a `mlp_downsample` projector merges
into the 36 (as VILA-1.5 has it). `align` trains the projector, `pretrain` the language model too.
The cache holds every image: what is timed is an epoch after the first. Before anything is timed,
the losses of the first epoch (each image through the tower alone) and of the second (all found)
must be those without a cache, to the bit, or the script fails.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import torch
from train_throughput import IMAGE_ID, PACK_TOKENS, TEXT, TOWER, make_models, make_samples, packed

from vila_core.model import VilaConfig, VilaForConditionalGeneration, freeze
from vila_core.model.freezing import STAGE_TRAINS
from vila_core.train.config import TrainConfig
from vila_core.train.engine import create_engine
from vila_core.train.features import FeatureCache
from vila_core.train.loss import vila_loss
from vila_core.types import Batch

TOWERS = {"36 patches": 48, "144 patches": 96}
"""The sides of the towers' images, in pixels."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--samples", type=int, default=80)


def with_images(batch: Batch, size: int) -> Batch:
    """The batch with its images scaled to `size`; their digests are those of the pixels."""
    images = torch.nn.functional.interpolate(batch.tensors["pixel_values"], size)
    digests = tuple(hashlib.sha256(one.numpy().tobytes()).digest() for one in images)
    tensors = {**batch.tensors, "pixel_values": images}
    return replace(batch, tensors=tensors, image_digests=digests)


def make_model(tower: str) -> VilaForConditionalGeneration:
    """The model of `train_throughput.py`, or the one whose tower has four times the patches."""
    if tower == "36 patches":
        return make_models("pretrain")[0]
    torch.manual_seed(0)
    vision = {**TOWER, "image_size": TOWERS[tower], "num_hidden_layers": 6}
    config = VilaConfig(
        vision_config=vision, text_config=TEXT, projector="mlp_downsample", image_token_id=IMAGE_ID
    )
    return VilaForConditionalGeneration(config).train()


class Training:
    """One way to train: an epoch is a call, and returns its losses."""

    def __init__(self, tower: str, stage: str, batches: list[Batch], folder: Path | None) -> None:
        model = make_model(tower)
        freeze(model, STAGE_TRAINS[stage])
        settings: dict[str, Any] = {"device": "cpu", "cache_features": "1GiB" if folder else 0}
        config = TrainConfig(steps=len(batches), lr=1e-4, **settings)
        self.cache = FeatureCache(model, {}, config, folder) if folder else None
        self.loss_fn = self.cache.around(vila_loss) if self.cache else vila_loss
        self.engine = create_engine(model, config)
        self.batches = [with_images(batch, TOWERS[tower]) for batch in batches]

    def __call__(self) -> list[float]:
        losses = []
        for batch in self.batches:
            scale = 1.0 / batch.supervised
            loss = self.engine.backward(batch, self.loss_fn, scale=scale, last=True)
            losses.append(float(loss))
            self.engine.update(1.0)
        return losses


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write feature_cache.json."""
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    batches = packed(make_samples(options.samples, 0), PACK_TOKENS)
    tokens = sum(batch.num_tokens for batch in batches)
    cases = [f"{stage}, {tower}" for stage in ("align", "pretrain") for tower in TOWERS]
    with tempfile.TemporaryDirectory() as name:
        ways: dict[str, Training] = {}
        for case in cases:
            stage, tower = case.split(", ")
            computed = Training(tower, stage, batches, None)
            cached = Training(tower, stage, batches, Path(name) / case)
            ways |= {f"{case}, computed": computed, f"{case}, cached": cached}
            for epoch in (1, 2):
                if computed() != cached():
                    print(f"error: losses of {case} differ in epoch {epoch}", file=sys.stderr)
                    return 1
        taken = _harness.in_turn(ways, options.repeats)
    results = {way: _harness.both(times, tokens, "useful_tokens") for way, times in taken.items()}
    saved = {
        case: statistics.median(
            1 - other.cpu / one.cpu
            for one, other in zip(taken[f"{case}, computed"], taken[f"{case}, cached"], strict=True)
        )
        for case in cases
    }
    for way, result in results.items():
        print(f"{way:<32} {1e3 * result['cpu']['median_s'] / len(batches):7.1f} ms of CPU per step")
    for case, share in saved.items():
        print(f"{case}: {share:.1%} of the step saved")
    _harness.write(
        options.out,
        "feature_cache",
        settings={
            "packs": len(batches),
            "tokens": tokens,
            "images": sum(batch.num_images for batch in batches),
            "repeats": options.repeats,
        },
        results=results,
        packages=("torch", "transformers"),
        saved_cpu=saved,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
