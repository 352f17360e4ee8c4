"""Corpora to try everything with: the miniature world in the real corpora's own formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vila_core.config import read_yaml
from vila_core.errors import UserError
from vila_core.miniature.config import WorldConfig
from vila_core.miniature.world import write_world
from vila_ops.recipes import find_recipe

_STEPS = {
    "vision_tower": 60,
    "language_model": 120,
    "align": 20,
    "pretrain": 40,
    "sft": 40,
}
"""A few of the quickstart's steps: enough to see everything work, too few to learn much."""


def write_example(to: Path, samples: int) -> list[str]:
    """Write corpora, tokenizer and evaluation sets to `to`, with a recipe that reads them.

    `samples` is the number per corpus. Returns the names of the corpora. Raises UserError when `to`
    exists.
    """
    if to.exists():
        raise UserError(f"{to}: exists already.\n  fix: name a new folder, or remove this one.")
    sizes = dict.fromkeys(("captions", "documents", "conversations", "instructions"), samples)
    world = WorldConfig.model_validate({**sizes, "eval_items": 20, "eval_digits": 20})
    corpora = write_world(to, world)
    prepare = {
        "source": "corpora",
        "tokenizer": str(to / "tokenizer"),
        "eval": str(to / "eval"),
        "corpora": [
            {
                "name": corpus.name,
                "format": corpus.format,
                "path": str(corpus.path),
                **({"images": str(corpus.images)} if corpus.images else {}),
                "template": "miniature",
            }
            for corpus in corpora
        ],
        # A world of few words and shapes repeats itself: only whole samples are compared.
        "dedupe": {"near": False, "perceptual": False, "text": False, "decontaminate": "block"},
    }
    recipe = read_yaml(find_recipe("quickstart"))
    recipe |= {"description": "The example corpora, a short training", "prepare": prepare}
    for section, steps in _STEPS.items():
        train: dict[str, Any] = recipe[section]["train"]
        train |= {"steps": steps, "warmup_steps": min(5, train["warmup_steps"])}
    recipe["register"] = {"model": "example", "alias": "candidate", "gates": []}
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)
    (to / "recipe.yaml").write_text(text, encoding="utf-8")
    return [corpus.name for corpus in corpora]
