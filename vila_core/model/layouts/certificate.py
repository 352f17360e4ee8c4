"""Compare our logits with the other library's on fixed prompts, and write down what was found."""

from __future__ import annotations

import gc
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

import vila_core
from vila_core.errors import VilaError
from vila_core.model.assembly import load
from vila_core.model.layouts import reference
from vila_core.model.layouts.files import sha256_of, write_json

FILE = "certificate.json"
PROMPTS = (
    "USER: What is the capital of France? ASSISTANT:",
    "USER: <image> What is shown here? ASSISTANT:",
    "USER: <image> Compare this picture with <image> and name one difference. ASSISTANT:",
)
"""With no, one and two images."""
WORDS = 32
"""After each prompt so many ids follow, spread evenly over the vocabulary."""
TOLERANCE = 1e-5
"""Largest difference of two logits, for each unit of the largest logit and at least for one."""


def certify(model: Path, exported: Path, layout: str) -> dict[str, Any]:
    """Compare a model folder of ours with what was exported from it; write `certificate.json`.

    Both run in float32, one after the other, so that memory holds one of them. Raises VilaError
    when ids or logits differ: the difference, what is tolerated, and the prompt.
    """
    ours, cases, image, words = _ours(model)
    gc.collect()
    tokenizer = reference.tokenizer_of(exported, layout)
    theirs = reference.load(exported, layout, image)
    rows = []
    for (prompt, ids, pixels), expected in zip(cases, ours, strict=True):
        _check_ids(tokenizer, prompt, ids, image, words)
        with torch.inference_mode():
            found = theirs(ids, pixels)[:, :words]
        difference = float((found - expected).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        images = 0 if pixels is None else len(pixels)
        if not difference <= allowed:  # also when it is no number
            raise VilaError(
                f"export: the other library's logits differ from ours by {difference:.3g} with "
                f"{images} images, more than {allowed:.3g}; nothing was kept"
            )
        row = {"prompt": prompt, "images": images, "tokens": len(ids)}
        rows.append(row | {"max_abs_difference": difference, "tolerance": allowed})
    result = {
        "layout": layout,
        "compared_with": _library(layout),
        "dtype": "float32",
        "max_abs_difference": max(row["max_abs_difference"] for row in rows),
        "tolerance": min(row["tolerance"] for row in rows),
        "prompts": rows,
        "versions": {
            "vila_platform": vila_core.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "sha256": {
            path.relative_to(exported).as_posix(): sha256_of(path)
            for path in sorted(exported.rglob("*"))
            if path.is_file()
        },
    }
    write_json(exported / FILE, result)
    return result


def picture(number: int, side: int) -> torch.Tensor:
    """Return fixed pixels (3, side, side) from -1 to 1: waves, each number's its own."""
    steps = torch.arange(side, dtype=torch.float64) / side
    colours = torch.arange(1, 4, dtype=torch.float64)[:, None, None]
    waves = 6.0 * steps[:, None] * colours + 9.0 * steps[None, :] * (number + 1)
    return torch.sin(waves + 0.7 * number).float()


def _ours(model_folder: Path) -> tuple[list[torch.Tensor], list[Any], int, int]:
    model, processor = load(model_folder)
    config = model.config
    words, side = config.text_config.vocab_size, config.vision_config.image_size
    spread = torch.arange(WORDS) * (words - 1) // (WORDS - 1)
    cases, logits = [], []
    for images, prompt in enumerate(PROMPTS):
        text = processor.tokenizer(processor.expand(prompt))["input_ids"]
        ids = torch.cat([torch.tensor(text, dtype=torch.long), spread])
        pixels = torch.stack([picture(n, side) for n in range(images)]) if images else None
        cases.append((prompt, ids, pixels))
        with torch.inference_mode():
            logits.append(model(input_ids=ids[None], pixel_values=pixels).logits[0])
    return logits, cases, config.image_token_id, words


def _check_ids(tokenizer: Any, prompt: str, ids: torch.Tensor, image: int, words: int) -> None:
    """Check the written tokenizer: the ids of the prompt, its images as one id each."""
    found = [number for number in tokenizer(prompt)["input_ids"] if number != image]
    wanted = [number for number in ids[:-WORDS].tolist() if number != image]
    if found != wanted:
        raise VilaError(
            f"export: the written tokenizer reads {prompt!r} as {found}, ours as {wanted}; "
            "nothing was kept"
        )


def _library(layout: str) -> str:
    if layout.startswith("transformers"):
        return "transformers.LlavaForConditionalGeneration"
    return "transformers' language model and vision tower, joined by a projector of its own"
