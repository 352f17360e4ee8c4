"""Evaluation with images that are shown again: the tower's features kept, against seen anew.

Two ways that benchmarks show images: six questions about each (POPE), and the same four
demonstrations in every prompt. The model has random weights, a tower of `--tower-layers` layers at
112 px with patches of 14, the shape of a small ViT, and the miniature language model. Images are
read from JPEG files. The answers must be equal, or the script fails.
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
from vila_core.eval.prompts import Prompt
from vila_core.miniature.words import build_tokenizer, words
from vila_core.model import (
    VilaForConditionalGeneration,
    VilaProcessor,
    build_preset,
    load_preset,
)

STOP, MAX_NEW_TOKENS, BATCH = ".", 6, 64
QUESTIONS, SHOTS = 6, 4
Answers = list[str]


def make_model(layers: int) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    """The miniature language model behind a larger tower."""
    preset = load_preset("miniature")
    tower = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "image_size": 112,
        "patch_size": 14,
    }
    text = {**preset.text_config, "max_position_embeddings": 1024}
    preset = preset.model_copy(
        update={"vision_config": {**preset.vision_config, **tower}, "text_config": text}
    )
    torch.manual_seed(0)
    model = build_preset(preset).eval()
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    half = (0.5, 0.5, 0.5)
    tokens = model.config.tokens_per_image
    processor = VilaProcessor(
        build_tokenizer(), image_size=112, tokens_per_image=tokens, mean=half, std=half
    )
    return model, processor


def make_images(folder: Path, count: int) -> list[Path]:
    """Photo-sized JPEGs of noise, smoothed so that they differ in more than grain."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{n}.jpg" for n in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((640, 480)).save(path)
    return paths


def make_prompts(images: Sequence[Path]) -> dict[str, list[Prompt]]:
    """Each way's prompts: as many of one as of the other."""
    named = [word for word in words() if not word.startswith("<")]

    def text(n: int) -> str:
        return " ".join(named[(7 * n + 3 * k) % len(named)] for k in range(2 + n % 5))

    asked = len(images) * QUESTIONS
    demos = "".join(f"<image> {text(k)} . " for k in range(SHOTS))
    fixed = tuple(images[:SHOTS])
    rest = images[SHOTS:]
    return {
        f"{QUESTIONS} questions per image": [
            Prompt(f"<image> {text(n)}", (images[n % len(images)],)) for n in range(asked)
        ],
        f"{SHOTS} fixed demonstrations": [
            Prompt(f"{demos}<image> {text(n)}", (*fixed, rest[n]))
            for n in range(min(asked, len(rest)))
        ],
    }


def ask(
    model: VilaForConditionalGeneration,
    processor: VilaProcessor,
    prompts: Sequence[Prompt],
    see: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Answers:
    generator = Generator(
        model,
        processor.tokenizer,
        processor.expand,
        lambda path: processor.transform_bytes(Path(str(path)).read_bytes()),
        BATCH,
        see=see,
    )
    found: dict[int, str] = {}
    for batch in generator.answers(prompts, max_new_tokens=MAX_NEW_TOKENS, stop=STOP):
        found |= {n: answer.text for n, answer in batch}
    return [found[n] for n in range(len(prompts))]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=64, help="different images")
    parser.add_argument("--tower-layers", type=int, default=6)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    model, processor = make_model(options.tower_layers)
    results: dict[str, object] = {}
    speedups: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = make_images(Path(folder), options.images)
        for kind, prompts in make_prompts(images).items():
            ways: dict[str, Callable[[], Answers]] = {
                "kept": lambda its=prompts: ask(model, processor, its, model.tower_features),
                "anew": lambda its=prompts: ask(model, processor, its, None),
            }
            ask(model, processor, prompts[:8], None)  # imports, allocator and file cache
            times = _harness.in_turn(ways, options.repeats)
            answers = times["kept"][0].value
            if any(one.value != answers for taken in times.values() for one in taken):
                print(f"error: {kind}: the answers differ", file=sys.stderr)
                return 1
            found = {
                name: _harness.both(taken, len(prompts), "prompts") for name, taken in times.items()
            }
            results[kind] = found | {"prompts": len(prompts), "distinct": len(set(answers))}
            speedups[kind] = found["anew"]["cpu"]["median_s"] / found["kept"]["cpu"]["median_s"]
            for name, each in found.items():
                cpu = each["cpu"]
                print(
                    f"{kind:<24} {name} {cpu['prompts_per_s']:8.0f} prompts per CPU second"
                    f"  ({cpu['min_s']:.2f} to {cpu['max_s']:.2f} s for {len(prompts)})"
                )
            print(f"{kind:<24} {speedups[kind]:.1f} times as fast, {len(set(answers))} answers")
    _harness.write(
        options.out,
        "image_cache",
        settings={
            "images": options.images,
            "tower_layers": options.tower_layers,
            "tokens_per_image": model.config.tokens_per_image,
            "batch_size": BATCH,
            "repeats": options.repeats,
        },
        results=results,
        packages=("torch", "transformers", "pillow"),
        speedup_cpu=speedups,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
