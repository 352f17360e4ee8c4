"""Zero- and few-shot prompts: demonstrations first, plainly interleaved, then the question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from vila_core.eval.files import ImageRef, read_image
from vila_core.eval.items import IMAGE, Case, Item


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation: what the user says, `<image>` marks places, and the answer.

    The last turn's `answer` is None: the model is to give it.
    """

    user: str
    answer: str | None = None


@dataclass(frozen=True)
class Prompt:
    """What a model is given: text with `<image>` places, and the images in reading order.

    `where` names the item's file and line in messages. `turns`, where there are any, hold the same
    content as a conversation, for models that are asked through a chat template; then `text` is
    what the answerer makes of them.
    """

    text: str
    images: tuple[ImageRef, ...]
    where: str = ""
    turns: tuple[Turn, ...] = ()

    def digest(self, known: dict[ImageRef, bytes] | None = None) -> str:
        """Return the sha256 of the text and of the images' content.

        `known` keeps the digests of image files between calls: prompts share demonstrations.
        Raises UserError for an image that can't be read.
        """
        known = {} if known is None else known
        total = hashlib.sha256(self.text.encode())
        for image in self.images:
            if image not in known:
                known[image] = hashlib.sha256(read_image(image)).digest()
            total.update(known[image])
        return total.hexdigest()


def make_prompt(item: Item, shots: int, stop: str) -> Prompt:
    """Put the first `shots` demonstrations with their answers before the question.

    The layout is the paper's Figure 7 (image and answer pairs in a row, no role tags): each
    demonstration is its prompt, its answer, and `stop`.
    """
    return plain_prompt(item.case, item.demos[:shots], f" {stop} ", item.where)


def plain_prompt(case: Case, demos: Sequence[Case], end: str, where: str = "") -> Prompt:
    """Lay out demonstrations and the question in a row; `end` follows each demonstration's answer.

    A case that ends in a line break or blank gets its answer glued on, another one after a blank.
    """
    texts: list[str] = []
    images: list[ImageRef] = []
    for demo in demos:
        text, its_images = render(demo)
        texts.append(f"{text}{'' if text[-1:].isspace() else ' '}{demo.answer}{end}")
        images += its_images
    text, its_images = render(case)
    return Prompt("".join([*texts, text]), tuple(images + its_images), where)


def chat_prompt(case: Case, demos: Sequence[Case], where: str = "") -> Prompt:
    """Lay out demonstrations as earlier turns of a conversation, and the question as its last."""
    turns: list[Turn] = []
    images: list[ImageRef] = []
    for demo in demos:
        text, its_images = render(demo)
        turns.append(Turn(text, demo.answer))
        images += its_images
    text, its_images = render(case)
    turns.append(Turn(text))
    return Prompt("", tuple(images + its_images), where, tuple(turns))


def render(case: Case) -> tuple[str, list[ImageRef]]:
    """Return the text of a case with `<image>` places, and its images in order."""
    text = "".join(part if isinstance(part, str) else IMAGE for part in case.parts)
    return text, [part for part in case.parts if not isinstance(part, str)]
