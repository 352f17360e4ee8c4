"""How samples are written out as text: templates are data, and `render` applies one.

A template says what stands around the turns of a conversation and after a document. What is
supervised follows from the roles: pre-training text and what the assistant says (with the end that
belongs to it), nothing else, as in VILA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from vila_core.data.sample import SUPERVISED_ROLES, Part, Sample, Text
from vila_core.errors import UserError

EOS = "{eos}"
"""Stands in a template for the tokenizer's end-of-sequence token, if it has one."""

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Template:
    """What is written around a sample's text."""

    name: str
    document_end: str = EOS  # after pre-training text; supervised
    system: str = ""  # written first when a conversation brings no system text of its own
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


def get_template(name: str) -> Template:
    """Return a template by name. Raises UserError for an unknown one."""
    if name not in TEMPLATES:
        known = ", ".join(sorted(TEMPLATES))
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
    if any(part.role != "text" for part in sample.parts):
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
        yield Piece(template.system + template.system_end, False)
    last = ""
    for part in parts:
        if part.role != last:
            yield _end(last, template)
            yield _start(part.role, last, template)
            last = part.role
        yield _content(part)
    yield _end(last, template)


def _start(role: str, last: str, template: Template) -> Piece:
    if role == "user":
        between = template.between_turns if last == "assistant" else ""
        return Piece(between + template.user_start, False)
    return Piece(template.assistant_start if role == "assistant" else "", False)


def _end(role: str, template: Template) -> Piece:
    if role == "assistant":
        return Piece(template.assistant_end, True)
    return Piece({"user": template.user_end, "system": template.system_end}.get(role, ""), False)
