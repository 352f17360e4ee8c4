from collections.abc import Callable
from typing import Any

TRAIN = {"steps": 2, "lr": 1e-3, "save_every": 0}
WORLD = {"captions": 40, "documents": 40, "conversations": 40, "instructions": 40}
TINY: dict[str, Any] = {
    "prepare": {"miniature": {**WORLD, "transfer_share": 0.4, "eval_items": 3, "eval_digits": 10}},
    "vision_tower": {"miniature": {"pool": 32, "batch": 8}, "train": TRAIN},
    "language_model": {"train": TRAIN},
    "align": {"train": TRAIN},
    "pretrain": {"mixture": {"mmc4": 0.5, "coyo": 0.5}, "train": TRAIN},
    "sft": {"mixture": {"llava": 0.7, "flan": 0.3}, "train": TRAIN},
    "evaluate": {"blind": False},
    "variants": {
        "pairs": {"readers": {"mmc4": {"rules": {"preset": "ablation-pairs"}}}},
        "images_first": {"readers": {"mmc4": {"rules": {"preset": "ablation-images-first"}}}},
        "no_series": {"miniature": {"series_share": 0.0}},
        "one_attribute": {"miniature": {"series_rules": ["color"]}},
        "no_text": {"miniature": {"web_text_share": 0.0}},
    },
}
"""The miniature world with trainings of two steps."""

FINDING: dict[str, Any] = {
    "title": "A frozen language model",
    "claim": "It matters.",
    "paper": {
        "source": "Table 9",
        "setting": "large",
        "columns": ["0-shot"],
        "rows": [{"title": "frozen", "values": [12.5], "arm": "frozen"}],
    },
    "arms": {
        "frozen": {"title": "frozen | kept", "pretrain": {"trains": ["projector"]}},
        "free": {"title": "trained <all>"},
    },
    "table": [{"title": "0-shot", "measure": "zero-shot", "after": "pretrain"}],
    "effects": [
        {
            "title": "free minus frozen",
            "measure": "four-shot",
            "after": "pretrain",
            "arm": "free",
            "minus": "frozen",
            "paper": "above",
            "smallest": {"default": 0.3},
        }
    ],
    "plots": [{"curve": "shots", "after": "pretrain"}],
}

WriteYaml = Callable[..., str]
