"""How samples are written out as text: templates are data, and `render` applies one.

A template says what stands around the turns of a conversation and after a document. What is
supervised follows from the roles: pre-training text and what the assistant says (with the end that
belongs to it), nothing else, as in VILA.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from vila_core.data.sample import SUPERVISED_ROLES, Part, Sample, Text
from vila_core.errors import UserError

MARKERS = re.compile(r"<\|[^|<>\s]+\|>")
"""How templates spell their markers; a tokenizer may lack them as special tokens."""
EOS = "{eos}"
"""Stands in a template for the tokenizer's end-of-sequence token, if it has one."""

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_LLAMA_3_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)


@dataclass(frozen=True)
class Template:
    """What is written around a sample's text."""

    name: str
    document_end: str = EOS  # after pre-training text; supervised
    system: str = ""  # written first when a conversation brings no system text of its own
    system_start: str = ""  # a template with one writes no system turn without a system text
    system_end: str = ""
    user_start: str = ""
    user_end: str = ""
    assistant_start: str = ""  # not supervised
    assistant_end: str = EOS  # supervised
    between_turns: str = ""  # before a user turn that follows an answer


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        # Documents and captions as they are, then the end token: MMC4 and COYO in VILA.
        Template("plain", user_end="\n"),
        # Stage-1 captions in LLaVA and VILA: a line break instead of the end token.
        Template("plain_line", document_end="\n", user_end="\n", assistant_end="\n"),
        Template(
            "vicuna_v1",
            system=_VICUNA_SYSTEM,
            system_end=" ",
            user_start="USER: ",
            user_end=" ",
            assistant_start="ASSISTANT: ",
        ),
        # VILA empties the system text for M3IT and FLAN; the prompt then starts with a blank.
        Template(
            "vicuna_v1_no_system",
            system_end=" ",
            user_start="USER: ",
            user_end=" ",
            assistant_start="ASSISTANT: ",
        ),
        # VILA-1.5's for Llama-3, and Meta's format: every turn ends with <|eot_id|>. (VILA-1.5 ends
        # the last one with <|end_of_text|>, which a chat model of Meta's doesn't.) The tokenizer
        # puts <|begin_of_text|> in front by itself.
        Template(
            "llama_3",
            system=_LLAMA_3_SYSTEM,
            system_start="<|start_header_id|>system<|end_header_id|>\n\n",
            system_end="<|eot_id|>",
            user_start="<|start_header_id|>user<|end_header_id|>\n\n",
            user_end="<|eot_id|>",
            assistant_start="<|start_header_id|>assistant<|end_header_id|>\n\n",
            assistant_end="<|eot_id|>",
        ),
        # OpenAI's ChatML as transformers' documentation has it. The line break that it has after
        # the last turn too is left out there: it carries no loss, and nothing comes after it.
        Template(
            "chatml",
            system_start="<|im_start|>system\n",
            system_end="<|im_end|>\n",
            user_start="<|im_start|>user\n",
            user_end="<|im_end|>\n",
            assistant_start="<|im_start|>assistant\n",
            assistant_end="<|im_end|>",
            between_turns="\n",
        ),
        # The embedded world: `scene <image> . q color of circle a red . q how many objects a 2 .`
        Template(
            "miniature",
            document_end="",
            user_end=" a",
            assistant_start=" ",
            assistant_end=" .",
            between_turns=" ",
        ),
    )
}


class Piece(NamedTuple):
    """A run of text (None: an image's place). `own`: from the sample, not the template."""

    text: str | None
    supervised: bool
    own: bool = False


TOKENIZER = "tokenizer"
"""The name of the template that a tokenizer brings itself; `data/chat.py` renders it."""
NAMES: tuple[str, ...] = (*sorted(TEMPLATES), TOKENIZER)
"""All that a config may name."""


def get_template(name: str) -> Template:
    """Return a template by name. Raises UserError for an unknown one.

    That of `tokenizer` holds for documents only: text, then the end-of-sequence token.
    """
    if name == TOKENIZER:
        return Template(TOKENIZER)
    if name not in TEMPLATES:
        known = ", ".join(NAMES)
        raise UserError(f"template '{name}' is not known; known templates: {known}.")
    return TEMPLATES[name]


def with_eos(template: Template, eos: str) -> Template:
    """Return the template with `{eos}` filled in."""
    filled = {
        field.name: getattr(template, field.name).replace(EOS, eos) for field in fields(template)
    }
    return replace(template, **filled)


def render(sample: Sample, template: Template) -> list[Piece]:
    """Return the sample as pieces of text and image places, in order."""
    if is_conversation(sample):
        pieces = list(_conversation(sample.parts, template))
    else:
        pieces = [_content(part) for part in sample.parts]
        pieces.append(Piece(template.document_end, True))
    return [piece for piece in pieces if piece.text != ""]


def _content(part: Part) -> Piece:
    if isinstance(part, Text):
        return Piece(part.text, part.role in SUPERVISED_ROLES, own=True)
    return Piece(None, False)


def _conversation(parts: tuple[Part, ...], template: Template) -> Iterator[Piece]:
    if parts[0].role != "system":
        yield Piece(opening(template), False)
    last = ""
    for part in parts:
        if part.role != last:
            yield _end(last, template)
            yield _start(part.role, last, template)
            last = part.role
        yield _content(part)
    yield _end(last, template)


def opening(template: Template) -> str:
    """Return what stands before the first user turn of a conversation without a system text."""
    if not template.system and template.system_start:
        return ""
    return template.system_start + template.system + template.system_end


def is_conversation(sample: Sample) -> bool:
    """Tell whether a sample has turns; otherwise it is pre-training text."""
    return any(part.role != "text" for part in sample.parts)


def _start(role: str, last: str, template: Template) -> Piece:
    if role == "user":
        between = template.between_turns if last == "assistant" else ""
        return Piece(between + template.user_start, False)
    starts = {"assistant": template.assistant_start, "system": template.system_start}
    return Piece(starts.get(role, ""), False)


def _end(role: str, template: Template) -> Piece:
    if role == "assistant":
        return Piece(template.assistant_end, True)
    return Piece({"user": template.user_end, "system": template.system_end}.get(role, ""), False)
