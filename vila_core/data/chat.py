"""The tokenizer's own chat template, with its answers found by rendering twice and comparing.

Answer n is what differs between the real rendering and one in which a sentinel stands in its place.
So nothing is assumed about what a template writes, and nothing is tokenised again and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vila_core.data.sample import IMAGE_TAG, Part, Sample, Text
from vila_core.data.templates import MARKERS, TOKENIZER
from vila_core.errors import UserError
from vila_core.jsonio import dumps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTINEL = "\ue0f0{}\ue0f1"  # private-use characters: no template looks for them, or strips them
_DAY = "26 Jul 2024"  # Llama's own default; the real day would give other tokens every day
_FIXED_DAY = (
    "{%- macro strftime_now(form) -%}{{ form"
    + "".join(
        f".replace('{code}', '{value}')"
        for code, value in {
            "%d": "26",
            "%b": "Jul",
            "%B": "July",
            "%Y": "2024",
            "%m": "07",
            "%y": "24",
            "%H": "00",
            "%M": "00",
            "%S": "00",
            "%A": "Friday",
            "%a": "Fri",
        }.items()
    )
    + " }}{%- endmacro -%}"
)
"""Put before a template, it takes the place of the clock that transformers gives to templates."""
_PROBE = (
    ("user", "a question"),
    ("assistant", "its answer"),
    ("user", "another question"),
    ("assistant", "the last answer"),
)


class TemplateRefuses(UserError):
    """The template can't lay out a conversation, or its answers can't be located."""


class Laid(NamedTuple):
    """A conversation as text, and for each character (C,) bool whether it is supervised."""

    text: str
    marks: np.ndarray


class Message(NamedTuple):
    """A turn; images stand as `<image>` where they belong."""

    role: str
    text: str


class ChatTemplate:
    """A tokenizer's chat template.

    Raises UserError when there is none, and when answers or their ends can't be located in what it
    renders: the message says why.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        specials = {token.content for token in added if token.special}
        self._specials = sorted(specials, key=len, reverse=True)
        self._lists = False
        self._end = ""
        if not tokenizer.chat_template:
            raise UserError(
                f"template: {TOKENIZER}: the tokenizer has no chat template of its own.\n"
                "  fix: put a chat_template.jinja beside its tokenizer.json, or name one of the "
                "built-in templates (docs/reference/templates.md)."
            )
        probe = [Message(*turn) for turn in _PROBE]
        try:
            spans = self._spans_of(probe)
        except TemplateRefuses:
            # Some templates, those of vision-language models among them, take contents as lists of
            # parts. A list of one text keeps the images where they stand.
            self._lists = True
            try:
                spans = self._spans_of(probe)
            except TemplateRefuses:
                self._lists = False
                self._spans_of(probe)  # the reason for plain text is the one to tell
                raise
        text = self._render(probe)
        self._end = self._find_end(text, spans)
        self.markers = frozenset(MARKERS.findall(text))

    @property
    def sha256(self) -> str:
        """The digest of the template, which tells two tokenizers' templates apart."""
        text = self._tokenizer.chat_template
        return hashlib.sha256(dumps(text).encode()).hexdigest()

    @property
    def end(self) -> str:
        """What ends an answer and is learnt with it, for example `<|im_end|>`."""
        return self._end

    def lay_out(self, sample: Sample, clean: Callable[[str], str]) -> Laid:
        """Write a conversation out; `clean` makes a corpus's own text harmless.

        Raises TemplateRefuses for a conversation that the template can't take.
        """
        messages = _messages(sample.parts, clean)
        try:
            text = self._render(messages)
            spans = self._spans_of(messages, text)
            _check_images(sample, text)
        except TemplateRefuses as error:
            raise TemplateRefuses(f"{sample.key}: {error}") from None
        marks = np.zeros(len(text) + 1, dtype=bool)
        for start, stop in spans:
            ends = text.startswith(self._end, stop)
            marks[start : stop + len(self._end) if ends else stop] = True
        return Laid(text, marks)

    def prompt(self, question: str) -> str:
        """Return a question up to where the answer starts."""
        return self.conversation([(question, None)])

    def conversation(
        self, exchanges: Sequence[tuple[str, str | None]], *, system: str | None = None
    ) -> str:
        """Return exchanges of user and answer up to where the last answer, None, starts."""
        messages = [] if system is None else [Message("system", system)]
        for user, answer in exchanges:
            messages.append(Message("user", user))
            messages += [] if answer is None else [Message("assistant", answer)]
        return self._render(messages, ask=True)

    def _spans_of(
        self, messages: Sequence[Message], text: str | None = None
    ) -> list[tuple[int, int]]:
        """Return start and stop of each answer in the rendering of `messages`."""
        text = self._render(messages) if text is None else text
        answers = [n for n, message in enumerate(messages) if message.role == "assistant"]
        sentinels = {n: _sentinel(n, text) for n in answers}
        swapped = [
            message._replace(text=sentinels.get(n, message.text))
            for n, message in enumerate(messages)
        ]
        found = _same_frame(
            self._render(swapped),
            list(sentinels.values()),
            text,
            [messages[n].text for n in answers],
        )
        if found is not None:
            return found
        spans = []
        for n, sentinel in sentinels.items():  # the template rewrites answers: one at a time
            one = [*messages[:n], messages[n]._replace(text=sentinel), *messages[n + 1 :]]
            spans.append(_span(self._render(one), sentinel, text))
        if any(start < stop for (_, stop), (start, _) in pairwise(spans)):
            raise TemplateRefuses(_cannot("two answers overlap in what it renders"))
        return spans

    def _find_end(self, text: str, spans: Sequence[tuple[int, int]]) -> str:
        """Return what follows the answers: through the first special token, or all of the end."""
        tail = text[spans[-1][1] :]
        blank = tail[: len(tail) - len(tail.lstrip())]
        for special in self._specials:
            if tail.startswith(special, len(blank)):
                return blank + special
        if not tail.strip():
            raise TemplateRefuses(
                _cannot("nothing ends an answer, so that a model would never learn to stop")
            )
        return tail.rstrip()

    def _template(self) -> str:
        template = self._tokenizer.get_chat_template()
        return _FIXED_DAY + template if "strftime_now" in template else template

    def _render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        import jinja2

        turns: list[dict[str, Any]] = [
            {
                "role": message.role,
                "content": [{"type": "text", "text": message.text}]
                if self._lists
                else message.text,
            }
            for message in messages
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                chat_template=self._template(),
                tokenize=False,
                add_generation_prompt=ask,
                date_string=_DAY,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            reason = str(error).strip() or type(error).__name__
            raise TemplateRefuses(f"the tokenizer's chat template refuses it: {reason}") from None
        return str(text)


def _check_images(sample: Sample, text: str) -> None:
    places = text.count(IMAGE_TAG)
    if places != len(sample.images):
        raise TemplateRefuses(
            f"the tokenizer's chat template writes {places} {IMAGE_TAG} places for "
            f"{len(sample.images)} images"
        )


def _messages(parts: Sequence[Part], clean: Callable[[str], str]) -> list[Message]:
    messages: list[Message] = []
    for part in parts:
        if part.role == "text":
            raise TemplateRefuses("pre-training text stands inside a conversation")
        text = clean(part.text) if isinstance(part, Text) else IMAGE_TAG
        if messages and messages[-1].role == part.role:
            messages[-1] = Message(part.role, messages[-1].text + text)
        else:
            messages.append(Message(part.role, text))
    return messages


def _sentinel(number: int, text: str) -> str:
    sentinel = _SENTINEL.format(number)
    while sentinel in text:
        sentinel += sentinel
    return sentinel


def _same_frame(
    frame: str, sentinels: Sequence[str], text: str, answers: Sequence[str]
) -> list[tuple[int, int]] | None:
    """Return the spans when `text` is `frame` with the answers, whole or stripped, filled in.

    None when it isn't, or when a sentinel is not there exactly once and in order.
    """
    pieces, rest = [], frame
    for sentinel in sentinels:
        before, found, rest = rest.partition(sentinel)
        if not found:
            return None
        pieces.append(before)
    for filled in (answers, [answer.strip() for answer in answers]):
        spans, at = [], 0
        for before, answer in zip(pieces, filled, strict=True):
            start = at + len(before)
            at = start + len(answer)
            spans.append((start, at))
        whole = "".join(part for pair in zip(pieces, filled, strict=True) for part in pair) + rest
        if whole == text:
            return spans
    return None


def _span(marked: str, sentinel: str, text: str) -> tuple[int, int]:
    """Return where in `text` stands what `sentinel` replaces in `marked`."""
    seen = marked.count(sentinel)
    if seen != 1:
        how = "leaves an answer out" if seen == 0 else f"writes an answer {seen} times"
        raise TemplateRefuses(_cannot(f"it {how}"))
    before, _, after = marked.partition(sentinel)
    if not text.startswith(before) or not text.endswith(after):
        raise TemplateRefuses(_cannot("what it writes around an answer depends on the answer"))
    stop = len(text) - len(after)
    if stop < len(before):
        raise TemplateRefuses(_cannot("the texts around an answer overlap"))
    return len(before), stop


def _cannot(why: str) -> str:
    return (
        f"the answers can't be located in the tokenizer's chat template: {why}.\n"
        "  fix: name a built-in template instead, or repair chat_template.jinja."
    )
