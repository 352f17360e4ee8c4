"""The section of a model card that says how to use the version."""

from __future__ import annotations

import re

from components.registry import Version
from vila_core.layouts import OURS
from vila_ops.registry.escape import one_line

_PROJECTORS = {
    "transformers": re.compile("mlp2x_gelu"),
    "llava": re.compile(r"linear|mlp\d+x_gelu"),
    "vila15": re.compile(".*"),
}
"""The projectors that each layout has a place for; the other one of transformers is for few."""


def use(version: Version, layout: str, projector: str) -> list[str]:
    """Tell how to ask a version, by the layout of the folder that the card lies in."""
    name = one_line(version.name)  # names of models are checked: no markup in them
    lines = ["## How to use it", ""]
    if layout == OURS:
        lines += _console(
            f"vila registry pull {name} --out {version.model}",
            f'vila ask {version.model} photo.jpg "What is this?"',
        )
        return [
            *lines,
            "For other libraries it is exported, where their layouts have a place for its parts; "
            "each export is proved to give the same logits:",
            "",
            *_console(
                *(
                    f"vila registry export {name} --to {version.model}-{other} --layout {other}"
                    for other, takes in _PROJECTORS.items()
                    if takes.fullmatch(projector)
                )
            ),
        ]
    if layout.startswith("transformers"):
        return [
            *lines,
            "```python",
            "from transformers import AutoTokenizer, LlavaForConditionalGeneration",
            "",
            f'model = LlavaForConditionalGeneration.from_pretrained("{version.model}-{layout}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{version.model}-{layout}")',
            "```",
            "",
            "`certificate.json` says how closely its logits agree with the original's.",
            "",
        ]
    whose = {"llava": "LLaVA-1.5", "vila15": "VILA-1.5"}[layout]
    return [
        *lines,
        f"The folder has the layout of {whose}; `certificate.json` says how closely its logits "
        "agree with the original's. Bring it back with:",
        "",
        *_console(f"vila import {version.model}-{layout} --to {version.model}"),
    ]


def _console(*commands: str) -> list[str]:
    return ["```console", *(f"$ {command}" for command in commands), "```", ""]
