"""The section of a model card that says how to use the version."""

from __future__ import annotations

from components.registry import Version
from vila_ops.registry.escape import one_line


def use(version: Version, layout: str) -> list[str]:
    """Tell how to ask a version, by the layout of the folder that the card lies in."""
    name = one_line(version.name)  # names of models are checked: no markup in them
    lines = ["## How to use it", ""]
    if layout == "vila":
        lines += _console(
            f"vila registry pull {name} --to {version.model}",
            f'vila ask {version.model} photo.jpg "What is this?"',
        )
        return [
            *lines,
            "For transformers or LLaVA's code it is exported, which is proved to give the same "
            "logits:",
            "",
            *_console(f"vila registry export {name} --to {version.model}-hf --format hf"),
        ]
    if layout == "hf":
        return [
            *lines,
            "```python",
            "from transformers import AutoTokenizer, LlavaForConditionalGeneration",
            "",
            f'model = LlavaForConditionalGeneration.from_pretrained("{version.model}-hf")',
            f'tokenizer = AutoTokenizer.from_pretrained("{version.model}-hf")',
            "```",
            "",
            "`certificate.json` says how closely its logits agree with the original's.",
            "",
        ]
    return [
        *lines,
        "The folder has the layout of LLaVA-1.5. Bring it back with:",
        "",
        *_console(f"vila import {version.model}-llava --to {version.model}"),
    ]


def _console(*commands: str) -> list[str]:
    return ["```console", *(f"$ {command}" for command in commands), "```", ""]
