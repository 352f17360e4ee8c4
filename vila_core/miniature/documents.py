"""Interleaved documents, as a web page would hold them: sentences, pictures beside some of them.

Two families (VILA, section 3.2, on why interleaved data keeps few-shot ability). A *series* shows
one object after another and names the same attribute of each: which one can only be told from the
pictures before, so the document teaches in-context learning. A *web* document mixes lines of plain
text with pictures and their captions, and so replays the language model's own text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vila_core.miniature.questions import SCENE_KINDS, reading_text, scene_question
from vila_core.miniature.scenes import Scene, draw_scene
from vila_core.miniature.text import follow, knowledge, named

_NAMED_SHARE = 0.15
_KNOWLEDGE_SHARE = 0.75
_CAPTION_SHARE = 0.7
_DIGIT_SHARE = 0.15


@dataclass(frozen=True)
class Scan:
    """A picture of training digit number `row`, with what it shows."""

    row: int
    label: int

    @property
    def caption(self) -> str:
        """`digit 7`."""
        return f"digit {self.label}"


Picture = Scene | Scan


@dataclass(frozen=True)
class Sentence:
    """One sentence, and the picture that stands directly before it, if any."""

    text: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Document:
    """Sentences in reading order."""

    sentences: tuple[Sentence, ...]

    @property
    def pictures(self) -> list[Picture]:
        """The pictures in reading order."""
        return [line.picture for line in self.sentences if line.picture is not None]


def series_document(
    rng: np.random.Generator, shortest: int, longest: int, rules: Sequence[str]
) -> Document:
    """Draw `<image> -> red ; <image> -> blue ; …`: one of `rules`, some items only named."""
    rule = rules[int(rng.integers(len(rules)))]
    lines: list[Sentence] = []
    for _ in range(int(rng.integers(shortest, longest + 1))):
        if rng.random() < _NAMED_SHARE:
            color, shape = named(rng)
            lines.append(Sentence(f"{color} {shape} -> {follow(rule, color, shape)} ;"))
            continue
        scene = draw_scene(rng, 1)
        thing = scene.things[0]
        lines.append(Sentence(f"-> {follow(rule, thing.color, thing.shape)} ;", scene))
    return _with_picture(rng, lines)


def web_document(
    rng: np.random.Generator, labels: Sequence[int], longest: int, text_share: float
) -> Document:
    """Draw two to `longest` segments, each a line of text or a picture with or without its caption.

    `labels` are those of the training digits, by row; `text_share` is that of the lines of text.
    """
    lines: list[Sentence] = []
    for _ in range(int(rng.integers(2, longest + 1))):
        if rng.random() < text_share:
            lines.append(Sentence(_text_line(rng)))
            continue
        picture = draw_picture(rng, labels)
        captioned = rng.random() < _CAPTION_SHARE
        lines.append(Sentence("scene"))
        lines.append(Sentence(f"{picture.caption} ." if captioned else ".", picture))
    return _with_picture(rng, lines)


def draw_picture(rng: np.random.Generator, labels: Sequence[int]) -> Picture:
    """Draw a scan, or a scene of one to three objects."""
    if rng.random() < _DIGIT_SHARE:
        row = int(rng.integers(len(labels)))
        return Scan(row, int(labels[row]))
    return draw_scene(rng, int(rng.integers(1, 4)))


def _text_line(rng: np.random.Generator) -> str:
    if rng.random() < _KNOWLEDGE_SHARE:
        return knowledge(rng).line
    question = scene_question(rng, SCENE_KINDS[rng.integers(len(SCENE_KINDS))])
    return f"{reading_text(question)} {question.qa.answer} ."


def _with_picture(rng: np.random.Generator, lines: list[Sentence]) -> Document:
    """MMC4 holds no document without an image: end with one where the draw gave none."""
    if not any(line.picture for line in lines):
        scene = draw_scene(rng, 1)
        lines += [Sentence("scene"), Sentence(f"{scene.caption} .", scene)]
    return Document(tuple(lines))
