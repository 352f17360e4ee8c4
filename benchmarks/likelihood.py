"""Likelihoods of options: the prompt's images and demonstrations once, against once per option.

Options of questions with one image, five images (four demonstrations) and none are scored by the
same random-weight miniature model. `shared prefix` is vila_core.eval.generate; `whole sequences`
passes prompt and option together, all options of all questions in length-sorted batches of as many
rows. Both load images. `words` are options of one token, as letters are; `phrases` of three to
five. The likelihoods must agree within 0.001 nats, or the script fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import torch
from eval_throughput import make_model, make_prompts
from PIL import Image

from vila_core.eval.batches import by_length, left_padded
from vila_core.eval.generate import Generator
from vila_core.eval.prompts import Prompt

OPTIONS = {
    "words": [" red", " blue", " green", " yellow"],
    "phrases": [" the red one", " the blue one is left", " a green one", " the yellow one is red"],
}
Nats = list[list[float]]


def shared(generator: Generator, asked: Sequence[Prompt], options: Sequence[str]) -> Nats:
    """Our way."""
    batches = generator.likelihoods(asked, [options] * len(asked))
    found = dict(pair for batch in batches for pair in batch)
    return [found[n] for n in range(len(asked))]


@torch.inference_mode()
def whole(generator: Generator, asked: Sequence[Prompt], options: Sequence[str]) -> Nats:
    """Each option behind its whole prompt; only the logits that are needed are computed."""
    rows: list[tuple[int, list[int], int]] = []
    for n, prompt in enumerate(asked):
        texts = [prompt.text, *(prompt.text + one for one in options)]
        head, *ids = generator.tokenizer([generator.expand(text) for text in texts])["input_ids"]
        rows += [(n, row, len(row) - len(head)) for row in ids]
    most = max(tail for _, _, tail in rows)
    nats: list[float] = [0.0] * len(rows)
    sizes = [(1, len(row)) for _, row, _ in rows]
    limit = generator.batch_size * len(options)
    for batch in by_length(sizes, limit, generator.batch_tokens):
        padded = left_padded([rows[r][1] for r in batch], 0, torch.device("cpu"))
        images = [image for r in batch for image in asked[rows[r][0]].images]
        assert generator.load_image is not None
        loaded = {image: generator.load_image(image) for image in dict.fromkeys(images)}
        extra = {"pixel_values": torch.stack([loaded[i] for i in images])} if images else {}
        logits_BTV = generator.model(
            input_ids=padded.tokens_BT,
            attention_mask=padded.mask_BT,
            position_ids=padded.positions_BT,
            logits_to_keep=most + 1,
            **extra,
        ).logits.log_softmax(-1)
        for place, r in enumerate(batch):
            tail = rows[r][1][-rows[r][2] :]
            at = torch.tensor(tail)[:, None]
            nats[r] = logits_BTV[place, -len(tail) - 1 : -1].gather(-1, at).sum().item()
    count = len(options)
    return [nats[start : start + count] for start in range(0, len(nats), count)]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", type=int, default=96, help="questions (at least 3)")
    parser.add_argument("--batch-size", type=int, default=32)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    model, processor = make_model()
    generator = Generator(
        model,
        processor.tokenizer,
        processor.expand,
        lambda path: processor.image_transform(Image.open(path)),
        options.batch_size,
    )
    results: dict[str, Any] = {}
    speedup: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        asked = make_prompts(Path(folder), options.prompts)
        for kind, its in OPTIONS.items():
            ways = {
                "shared prefix": partial(shared, generator, asked, its),
                "whole sequences": partial(whole, generator, asked, its),
            }
            for way in (shared, whole):  # imports, allocator and file cache
                way(generator, asked[:8], its)
            times = _harness.in_turn(ways, options.repeats)
            ours, theirs = (torch.tensor(taken[0].value) for taken in times.values())
            if (off := (ours - theirs).abs().max().item()) > 1e-3:
                print(f"error: likelihoods of {kind} differ by {off} nats", file=sys.stderr)
                return 1
            for name, taken in times.items():
                result = _harness.both(taken, len(asked), "prompts")
                results[f"{kind}, {name}"] = result
                print(
                    f"{kind}, {name:<16} {result['cpu']['prompts_per_s']:8.0f} prompts per CPU "
                    f"second ({result['cpu']['min_s']:.2f} to {result['cpu']['max_s']:.2f} s)"
                )
            medians = [results[f"{kind}, {name}"]["cpu"]["median_s"] for name in ways]
            speedup[kind] = medians[1] / medians[0]
            print(f"{kind}: {speedup[kind]:.1f} times")
    _harness.write(
        options.out,
        "likelihood",
        settings={
            "prompts": len(asked),
            "options": {kind: len(its) for kind, its in OPTIONS.items()},
            "images": sum(len(prompt.images) for prompt in asked),
            "repeats": options.repeats,
            "batch_size": options.batch_size,
        },
        results=results,
        packages=("torch", "transformers", "tokenizers", "numpy"),
        speedup_cpu=speedup,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
