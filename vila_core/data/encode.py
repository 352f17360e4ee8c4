"""From a sample to token ids and labels. What is supervised is found by character offsets."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vila_core.data.chat import ChatTemplate, Laid
from vila_core.data.sample import IMAGE_TAG, Image, Sample
from vila_core.data.templates import (
    MARKERS,
    TOKENIZER,
    Template,
    get_template,
    is_conversation,
    render,
    with_eos,
)
from vila_core.data.token_counts import tokenizer_digest
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
    Special tokens spelled out in a corpus's own text are broken up, and the template's markers
    too: text can't forge an image, a turn or an end. Raises UserError for a tokenizer without a
    fast implementation, and what `ChatTemplate` raises for the template `tokenizer`.
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
        specials = _special_tokens(self._backend)
        self._special_ids = np.array(sorted(specials.values()), dtype=np.int64)
        self.template = get_template(template) if isinstance(template, str) else template
        self._filled = with_eos(self.template, str(tokenizer.eos_token or ""))
        self._chat = None
        if self.template.name == TOKENIZER:
            self._chat = ChatTemplate(tokenizer)
        markers = self._chat.markers if self._chat else _markers(self._filled)
        self._forged = re.compile(
            "|".join(map(re.escape, sorted({*specials, *markers}, key=len, reverse=True)))
        )

    @cached_property
    def digest(self) -> str:
        """The sha256 of how the tokenizer cuts text: see `tokenizer_digest`."""
        # A second or so for a vocabulary of 150,000, and seldom needed.
        return tokenizer_digest(self._backend.to_str(), str(self.tokenizer.eos_token or ""))

    def with_template(self, template: str) -> Encoder:
        """Return this encoder with another template."""
        if template == self.template.name:
            return self
        made = Encoder(self.tokenizer, template, self.image_token_id, self.tokens_per_image)
        if "digest" in self.__dict__:
            made.__dict__["digest"] = self.digest  # the tokenizer is the same
        return made

    @property
    def chat_template(self) -> str | None:
        """The sha256 of the tokenizer's chat template, if that is what lays samples out."""
        return self._chat.sha256 if self._chat else None

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

    def supervised_text(self, sample: Sample) -> list[str]:
        """Return the runs of characters that carry loss, in order, ends of turns included."""
        text, marks = self.lay_out(sample)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], marks[:-1], [False]])))
        return [text[start:stop] for start, stop in edges.reshape(-1, 2).tolist()]

    def _tokens(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Return ids with one token per image, and which of them are in supervised text."""
        text, marks = self.lay_out(sample)
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64)
        # A token belongs where its last character stands: "▁red" after "ASSISTANT:" begins with
        # the blank of the prompt and is part of the answer.
        ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 1].copy()
        for n in np.flatnonzero(np.isin(ids, self._special_ids)).tolist():
            start, end = encoding.offsets[n]  # some special tokens swallow the blanks behind them
            ends[n] = start + len(text[start:end].rstrip())
        inside = marks[np.maximum(ends, 1) - 1]
        # A tokenizer's chat template writes the BOS itself, where there is to be one.
        before = [] if self._chat and is_conversation(sample) else self._prefix
        return (
            np.concatenate([np.array(before, dtype=np.int64), ids]),
            np.concatenate([np.zeros(len(before), dtype=bool), inside]),
        )

    def lay_out(self, sample: Sample) -> Laid:
        """Return the rendered text, and which of its characters are supervised."""
        if self._chat and is_conversation(sample):
            return self._chat.lay_out(sample, self.clean)
        texts = []
        marks = bytearray()
        for piece in render(sample, self._filled):
            text = IMAGE_TAG if piece.text is None else piece.text
            if piece.own:
                text = self.clean(text)
            texts.append(text)
            marks += (b"\1" if piece.supervised else b"\0") * len(text)
        return Laid("".join(texts), np.frombuffer(bytes(marks) + b"\0", dtype=bool))

    def loss_bearing(self, sample: Sample) -> Laid:
        """Return the rendered text, and which of its characters stand in a token that bears loss.

        As `lay_out`, but for the first token of all: nothing comes before it that could foretell
        it, unless the tokenizer puts a BOS there.
        """
        text, marks = self.lay_out(sample)
        if self._prefix and not (self._chat and is_conversation(sample)):
            return Laid(text, marks)
        marks = marks.copy()
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        marks[: offsets[0][1] if offsets else 0] = False
        return Laid(text, marks)

    def clean(self, text: str) -> str:
        """Return a corpus's own text with special tokens and markers broken up."""
        return self._forged.sub(_broken_up, text)


def _prefix(backend: Tokenizer) -> list[int]:
    """Return what the tokenizer itself puts before a text: [BOS], or nothing."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def _special_tokens(backend: Tokenizer) -> dict[str, int]:
    added = backend.get_added_tokens_decoder()
    return {token.content: number for number, token in added.items() if token.special}


def _markers(template: Template) -> set[str]:
    """Return the markers that a template writes, whether or not the tokenizer knows them."""
    values = (str(getattr(template, field.name)) for field in fields(template))
    return {marker for value in values for marker in MARKERS.findall(value)}


def _broken_up(match: re.Match[str]) -> str:
    token = match.group()
    return token.upper() if token == IMAGE_TAG else f"{token[0]} {token[1:]}"
