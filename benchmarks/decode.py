"""Decoding for training: 1024-px JPEGs to normalised 336-px tensors, against Pillow.

`ours` is `VilaProcessor.transform_bytes`: scaled JPEG decoding, then torch's antialiased resize on
bytes. `Pillow` decodes in full and resizes with Pillow's bicubic filter; the rest (fit, padding,
normalisation) is the same. `Pillow, scaled` is Pillow with scaled decoding (`draft`), to tell the
two gains apart. All on one thread, for each of the three fits.

The images are noise on all scales with a photo's spectrum. Ours must lie near Pillow's pixels (mean
difference below 2 of 255 levels), or the script fails.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import _harness  # first: sets the number of threads
import numpy as np
import torch
from PIL import Image

from vila_core.images import decode
from vila_core.miniature.words import build_tokenizer
from vila_core.model import VilaProcessor
from vila_core.model.processor import Fit

GOAL, WIDTH, HEIGHT, QUALITY = 336, 1024, 768, 90
BICUBIC = Image.Resampling.BICUBIC
FITS: tuple[Fit, ...] = get_args(Fit)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_jpeg(rng: np.random.Generator) -> bytes:
    """One image with a photo's spectrum: the finer the scale, the weaker."""
    total = np.zeros((HEIGHT, WIDTH, 3))
    for level in range(9):
        cells = rng.normal(size=(max(HEIGHT >> level, 2), max(WIDTH >> level, 2), 3))
        shade = Image.fromarray((128 + 40 * cells).clip(0, 255).astype(np.uint8))
        wide = np.asarray(shade.resize((WIDTH, HEIGHT), BICUBIC)).astype(float)
        total += (wide - 128) * 1.6 ** (level - 8)
    file = io.BytesIO()
    image = Image.fromarray((128 + total).clip(0, 255).astype(np.uint8))
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def pillow(
    processor: VilaProcessor,
    scale_C11: torch.Tensor,
    shift_C11: torch.Tensor,
    least: int,
    data: bytes,
) -> torch.Tensor:
    """Decode (in full with `least` 0), fit and resize with Pillow, normalise."""
    image = decode(data, at_least=least)
    (width, height), goal = image.size, (GOAL, GOAL)
    if processor.fit == "pad":
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(round(255 * value) for value in MEAN))
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        image = square.resize(goal, BICUBIC)
    elif processor.fit == "crop":
        shorter = min(width, height)
        width, height = GOAL * width // shorter, GOAL * height // shorter
        left, top = (width - GOAL) // 2, (height - GOAL) // 2
        box = (left, top, left + GOAL, top + GOAL)
        image = image.resize((width, height), BICUBIC).crop(box)
    else:
        image = image.resize(goal, BICUBIC)
    pixels_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return pixels_CHW.float() * scale_C11 + shift_C11


def over_all(way: Callable[[bytes], torch.Tensor], files: Sequence[bytes]) -> torch.Tensor:
    """Transform every file; return the last one's tensor."""
    last = torch.empty(0)
    for data in files:
        last = way(data)
    return last


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=32, help="files per measurement")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    files = [make_jpeg(rng) for _ in range(options.images)]
    std_C11 = torch.tensor(STD).reshape(3, 1, 1)
    scale_C11, shift_C11 = 1 / (255 * std_C11), -torch.tensor(MEAN).reshape(3, 1, 1) / std_C11
    ways: dict[str, Callable[[], torch.Tensor]] = {}
    for fit in FITS:
        processor = VilaProcessor(
            build_tokenizer(), image_size=GOAL, tokens_per_image=1, mean=MEAN, std=STD, fit=fit
        )
        by_pillow = partial(pillow, processor, scale_C11, shift_C11)
        ways[f"ours, {fit}"] = partial(over_all, processor.transform_bytes, files)
        ways[f"Pillow, {fit}"] = partial(over_all, partial(by_pillow, 0), files)
        ways[f"Pillow, scaled, {fit}"] = partial(over_all, partial(by_pillow, GOAL), files)
    for way in ways.values():
        way()  # imports and caches
    taken = _harness.in_turn(ways, options.repeats)
    results: dict[str, Any] = {}
    for name, runs in taken.items():
        results[name] = _harness.both(runs, len(files), "images")
        cpu = results[name]["cpu"]
        print(
            f"{name:<24} {cpu['images_per_s']:6.0f} images per CPU second"
            f"  ({cpu['min_s']:.2f} to {cpu['max_s']:.2f} s for {len(files)})"
        )
    speedup, differs = {}, {}
    for fit in FITS:
        ours, theirs = (taken[f"{way}, {fit}"][0].value for way in ("ours", "Pillow"))
        off = (ours - theirs).abs() * 255 * std_C11
        differs[fit] = {"mean_levels": float(off.mean()), "max_levels": float(off.max())}
        rates = (results[f"{way}, {fit}"]["cpu"]["images_per_s"] for way in ("ours", "Pillow"))
        ours_rate, their_rate = rates
        speedup[fit] = ours_rate / their_rate
        print(f"{fit}: {speedup[fit]:.1f} times, {differs[fit]['mean_levels']:.2f} levels off")
    _harness.write(
        options.out,
        "decode",
        settings={
            "images": len(files),
            "repeats": options.repeats,
            "from": [WIDTH, HEIGHT],
            "to": GOAL,
            "jpeg_quality": QUALITY,
            "mean_bytes": sum(map(len, files)) / len(files),
            "threads": 1,
        },
        results=results,
        packages=("torch", "pillow", "numpy"),
        speedup_cpu=speedup,
        difference=differs,
    )
    if max(each["mean_levels"] for each in differs.values()) > 2:
        print("error: ours is not near Pillow's pixels", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
