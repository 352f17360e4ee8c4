"""From a sample to token ids and labels. What is supervised is found by character offsets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vila_core.data.sample import IMAGE_TAG, Image, Sample
from vila_core.data.templates import Template, get_template, render, with_eos
from vila_core.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
"""The label of a position that carries no loss."""


@dataclass(frozen=True)
class Encoded:
    """A sample as the language model sees it; T is the length with image places expanded.

    `labels[t]` is the token at `t` (the loss shifts), or -100. `image_places` holds the first
    position of each image, in reading order, and `image_indices` which of `Sample.images` it is.
    """

    input_ids: np.ndarray  # (T,) int64
    labels: np.ndarray  # (T,) int64
    image_places: np.ndarray  # (images,) int64
    image_indices: tuple[int, ...]

    @property
    def num_supervised(self) -> int:
        """How many labels carry loss."""
        return int(np.count_nonzero(self.labels != IGNORE))


@dataclass(frozen=True)
class Counts:
    """What a sample costs: text tokens without image places, supervised tokens, images."""

    text_tokens: int
    supervised: int
    images: int


class Encoder:
    """Writes samples out by a template and encodes them with a fast tokenizer.

    The tokenizer is copied, so later changes of its padding or truncation don't matter here. The
    copy gets `<image>` as a special token when it lacks one; in the output `image_token_id` stands.
    Special tokens spelled out in a corpus's own text are broken up: text can't forge an image, a
    turn or an end. Raises UserError for a tokenizer without a fast implementation.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | Template,
        image_token_id: int,
        tokens_per_image: int,
    ) -> None:
        from tokenizers import AddedToken, Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            name = type(tokenizer).__name__
            raise UserError(
                f"{name} has no fast implementation (tokenizer.json), which supervision by "
                "character offsets needs.\n  fix: convert it with transformers and save it again."
            )
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self.tokens_per_image = tokens_per_image
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        if self._backend.token_to_id(IMAGE_TAG) is None:
            self._backend.add_special_tokens(
                [AddedToken(IMAGE_TAG, special=True, normalized=False)]
            )
        self._image_id = self._backend.token_to_id(IMAGE_TAG)
        self._prefix = _prefix(self._backend)
        self._special = _special_tokens(self._backend)
        self.template = get_template(template) if isinstance(template, str) else template
        self._filled = with_eos(self.template, str(tokenizer.eos_token or ""))

    def with_template(self, template: str) -> Encoder:
        """Return this encoder with another template."""
        if template == self.template.name:
            return self
        return Encoder(self.tokenizer, template, self.image_token_id, self.tokens_per_image)

    def encode(self, sample: Sample) -> Encoded:
        """Encode a whole sample: nothing is cut off."""
        ids, supervised = self._tokens(sample)
        labels = np.where(supervised, ids, IGNORE)
        if len(labels):
            labels[0] = IGNORE  # in a pack, the token before it belongs to another sample
        at_image = ids == self._image_id
        repeats = np.where(at_image, self.tokens_per_image, 1)
        places = (np.cumsum(repeats) - repeats)[at_image]
        labels[at_image] = IGNORE
        ids[at_image] = self.image_token_id
        order = tuple(part.index for part in sample.parts if isinstance(part, Image))
        if len(places) != len(order):
            raise ValueError(f"{sample.key}: {len(order)} images became {len(places)} places")
        return Encoded(np.repeat(ids, repeats), np.repeat(labels, repeats), places, order)

    def count(self, sample: Sample) -> Counts:
        """Count tokens, for the index."""
        ids, supervised = self._tokens(sample)
        if len(ids):
            supervised[0] = False
        at_image = ids == self._image_id
        images = int(at_image.sum())
        return Counts(len(ids) - images, int((supervised & ~at_image).sum()), images)

    def _tokens(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Return ids with one token per image, and which of them are in supervised text."""
        text, marks = self._text(sample)
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = np.array([*self._prefix, *encoding.ids], dtype=np.int64)
        # A token belongs where its last character stands: "▁red" after "ASSISTANT:" begins with
        # the blank of the prompt and is part of the answer.
        ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 1]
        inside = marks[np.maximum(ends, 1) - 1]
        return ids, np.concatenate([np.zeros(len(self._prefix), dtype=bool), inside])

    def _text(self, sample: Sample) -> tuple[str, np.ndarray]:
        """Return the rendered text, and for each of its characters whether it is supervised."""
        texts = []
        marks = bytearray()
        for piece in render(sample, self._filled):
            text = IMAGE_TAG if piece.text is None else piece.text
            if piece.own and self._special.search(text):
                text = self._special.sub(_broken_up, text)
            texts.append(text)
            marks += (b"\1" if piece.supervised else b"\0") * len(text)
        return "".join(texts), np.frombuffer(bytes(marks) + b"\0", dtype=bool)


def _prefix(backend: Tokenizer) -> list[int]:
    """Return what the tokenizer itself puts before a text: [BOS], or nothing."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def _special_tokens(backend: Tokenizer) -> re.Pattern[str]:
    added = backend.get_added_tokens_decoder().values()
    names = sorted({token.content for token in added if token.special}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)))


def _broken_up(match: re.Match[str]) -> str:
    token = match.group()
    return token.upper() if token == IMAGE_TAG else f"{token[0]} {token[1:]}"
