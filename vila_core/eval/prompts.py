"""Zero- and few-shot prompts: demonstrations first, plainly interleaved, then the question."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vila_core.eval.items import Case, Item

IMAGE = "<image>"


@dataclass(frozen=True)
class Prompt:
    """What a model is given: text with `<image>` places, and the images in reading order."""

    text: str
    images: tuple[Path, ...]

    def digest(self) -> str:
        """Return the sha256 of the text and of the images' content."""
        total = hashlib.sha256(self.text.encode())
        for image in self.images:
            total.update(hashlib.sha256(image.read_bytes()).digest())
        return total.hexdigest()


def make_prompt(item: Item, shots: int, stop: str) -> Prompt:
    """Put the first `shots` demonstrations with their answers before the question.

    The layout is the paper's Figure 7 (image and answer pairs in a row, no role tags): each
    demonstration is its prompt, its answer, and `stop`.
    """
    texts, images = [], []
    for case in (*item.demos[:shots], item.case):
        text, its_images = _render(case)
        images += its_images
        texts.append(text if case is item.case else f"{text} {case.answer} {stop} ")
    return Prompt("".join(texts), tuple(images))


def _render(case: Case) -> tuple[str, list[Path]]:
    text = "".join(IMAGE if isinstance(part, Path) else part for part in case.parts)
    return text, [part for part in case.parts if isinstance(part, Path)]
