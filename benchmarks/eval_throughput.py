"""Evaluation throughput: our batched greedy loop against transformers' `generate`.

Three ways answer the same questions of the miniature world with the same random-weight miniature
model: `ours` (vila_core.eval.generate, length-sorted batches), `generate, batch 1` (one prompt at a
time, the usual loop) and `generate, batch N` (length-sorted batches too). All three load images,
tokenise and decode. The answers must be equal, or the script fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import _harness  # first: sets the number of threads
import numpy as np
import torch
from PIL import Image

from vila_core.eval.generate import Generator
from vila_core.eval.items import load_eval_set
from vila_core.eval.prompts import Prompt, make_prompt
from vila_core.miniature.config import WorldConfig
from vila_core.miniature.evalsets import write_eval_sets
from vila_core.miniature.words import build_tokenizer
from vila_core.model import (
    VilaForConditionalGeneration,
    VilaProcessor,
    build_preset,
    load_preset,
)

STOP, MAX_NEW_TOKENS = ".", 6
ROUNDS = (("miniature_vqa", 0), ("miniature_icl", 4), ("miniature_reading", 0))
"""Tasks and shots: one image, five images, no image."""
Answers = list[str]


def make_model() -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """The miniature preset with random weights, spread enough that answers differ."""
    torch.manual_seed(0)
    model = build_preset(load_preset("miniature")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    half = (0.5, 0.5, 0.5)
    tokens = model.config.tokens_per_image
    processor = VilaProcessor(
        build_tokenizer(), image_size=32, tokens_per_image=tokens, mean=half, std=half
    )
    return model, processor


def make_prompts(folder: Path, count: int) -> list[Prompt]:
    """`count` questions, a third from each round."""
    write_eval_sets(folder, WorldConfig(), np.random.default_rng(0))
    asked: list[Prompt] = []
    for task, shots in ROUNDS:
        items = load_eval_set(folder / task).items
        some = items[:: max(1, len(items) // (count // len(ROUNDS)))][: count // len(ROUNDS)]
        asked += [make_prompt(item, shots, STOP) for item in some]
    return asked


def ours(
    model: VilaForConditionalGeneration,
    processor: VilaProcessor,
    asked: Sequence[Prompt],
    batch_size: int,
) -> Answers:
    generator = Generator(
        model,
        processor.tokenizer,
        processor.expand,
        lambda path: processor.image_transform(Image.open(path)),
        batch_size,
    )
    found: dict[int, str] = {}
    for batch in generator.answers(asked, max_new_tokens=MAX_NEW_TOKENS, stop=STOP):
        found |= {n: answer.text for n, answer in batch}
    return [found[n] for n in range(len(asked))]


def theirs(
    model: VilaForConditionalGeneration,
    processor: VilaProcessor,
    asked: Sequence[Prompt],
    batch_size: int,
) -> Answers:
    tokenizer = processor.tokenizer
    stop = tokenizer.convert_tokens_to_ids(STOP)
    order = sorted(range(len(asked)), key=lambda n: (len(processor.expand(asked[n].text)), n))
    answers = [""] * len(asked)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = processor(
            [asked[n].text for n in batch],
            [[Image.open(path) for path in asked[n].images] for n in batch],
        )
        out = model.generate(
            **inputs,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=[stop, tokenizer.eos_token_id],
        )
        new = out[:, inputs["input_ids"].shape[1] :]
        for n, text in zip(
            batch, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
        ):
            answers[n] = text.partition(STOP)[0].strip()
    return answers


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", type=int, default=384, help="questions (at least 3)")
    parser.add_argument("--batch-size", type=int, default=128)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    model, processor = make_model()
    with tempfile.TemporaryDirectory() as folder:
        asked = make_prompts(Path(folder), options.prompts)
        size = options.batch_size
        ways: dict[str, Callable[[], Answers]] = {
            "ours": lambda: ours(model, processor, asked, size),
            "generate, batch 1": lambda: theirs(model, processor, asked, 1),
            f"generate, batch {size}": lambda: theirs(model, processor, asked, size),
        }
        for way in (ours, theirs):  # imports, allocator and file cache
            way(model, processor, asked[:8], 8)
        times = _harness.in_turn(ways, options.repeats)
    expected = times["ours"][0].value
    for name, taken in times.items():
        if any(one.value != expected for one in taken):
            print(f"error: '{name}' answers differently", file=sys.stderr)
            return 1
    results = {name: _harness.both(taken, len(asked), "prompts") for name, taken in times.items()}
    for name, result in results.items():
        cpu = result["cpu"]
        print(
            f"{name:<20} {cpu['prompts_per_s']:8.0f} prompts per CPU second"
            f"  ({cpu['min_s']:.2f} to {cpu['max_s']:.2f} s for {len(asked)})"
        )
    _harness.write(
        options.out,
        "eval_throughput",
        settings={
            "prompts": len(asked),
            "distinct_answers": len(set(expected)),
            "images": sum(len(prompt.images) for prompt in asked),
            "repeats": options.repeats,
            "batch_size": options.batch_size,
            "max_new_tokens": MAX_NEW_TOKENS,
        },
        results=results,
        packages=("torch", "transformers", "tokenizers", "numpy"),
        speedup_cpu=results["generate, batch 1"]["cpu"]["median_s"]
        / results["ours"]["cpu"]["median_s"],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
