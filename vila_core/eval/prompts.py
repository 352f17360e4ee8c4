"""Zero- and few-shot prompts: demonstrations first, plainly interleaved, then the question."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vila_core.eval.items import IMAGE, Case, Item


@dataclass(frozen=True)
class Prompt:
    """What a model is given: text with `<image>` places, and the images in reading order.

    `where` names the item's file and line in messages.
    """

    text: str
    images: tuple[Path, ...]
    where: str = ""

    def digest(self, known: dict[Path, bytes] | None = None) -> str:
        """Return the sha256 of the text and of the images' content.

        `known` keeps the digests of image files between calls: prompts share demonstrations.
        """
        known = {} if known is None else known
        total = hashlib.sha256(self.text.encode())
        for image in self.images:
            if image not in known:
                known[image] = hashlib.sha256(image.read_bytes()).digest()
            total.update(known[image])
        return total.hexdigest()


def make_prompt(item: Item, shots: int, stop: str) -> Prompt:
    """Put the first `shots` demonstrations with their answers before the question.

    The layout is the paper's Figure 7 (image and answer pairs in a row, no role tags): each
    demonstration is its prompt, its answer, and `stop`.
    """
    texts, images = [], []
    for demo in item.demos[:shots]:
        text, its_images = _render(demo)
        texts.append(f"{text} {demo.answer} {stop} ")
        images += its_images
    text, its_images = _render(item.case)
    return Prompt("".join([*texts, text]), tuple(images + its_images), item.where)


def _render(case: Case) -> tuple[str, list[Path]]:
    text = "".join(IMAGE if isinstance(part, Path) else part for part in case.parts)
    return text, [part for part in case.parts if isinstance(part, Path)]
