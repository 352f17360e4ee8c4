"""The messages of a request as exchanges of user and assistant, with images in their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vila_ops.serving.problem import ApiError, wrong

MARK = "<image>"
_KNOWN = {"role", "content", "name", "refusal"}
_DETAILS = ("auto", "low", "high", None)
Part = str | None  # text, or the place of an image


@dataclass(frozen=True)
class Conversation:
    """What was said. In `exchanges` each `<image>` stands for the next of `urls`.

    The answer of the last exchange is None: it is asked for.
    """

    system: str | None
    exchanges: tuple[tuple[str, str | None], ...]
    urls: tuple[str, ...]


def read(
    messages: Sequence[Any], clean: Callable[[str], str], *, scene: bool, most: int
) -> Conversation:
    """Read a request's messages: system first, then user and assistant, the user last.

    `clean` breaks up marks of the template that a text spells out. `scene`: images in front get the
    miniature world's words around them. Raises ApiError for anything else, and for more than `most`
    messages.
    """
    if len(messages) > most:
        raise wrong("messages", f"{len(messages)} messages, of which {most} are allowed")
    system: list[str] = []
    turns: list[tuple[str, str]] = []
    urls: list[str] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, content = _message(message, where)
        if role in ("system", "developer"):
            if turns:
                raise wrong(f"{where}.role", "a system message stands before all others")
            system.append(_text(_parts(content, where, [], clean), where, role))
        elif role == "assistant":
            if not turns:
                raise wrong(f"{where}.role", "the conversation starts with the user")
            turns.append((role, _text(_parts(content, where, [], clean), where, role)))
        else:
            parts = _parts(content, where, urls, clean)
            turns.append((role, laid_out(parts, scene=scene)))
    if not turns or turns[-1][0] != "user":
        raise wrong("messages", "the last message is the user's: it is what is answered")
    exchanges = _exchanges(turns)
    return Conversation("\n".join(system) if system else None, exchanges, tuple(urls))


def laid_out(parts: Sequence[Part], *, scene: bool) -> str:
    """Return a user's parts as one text, images as in training.

    An image gets a line break behind it, but for the last part, and where the text goes on with a
    blank: there the sender has written out how it goes on.
    """
    pieces: list[str] = []
    for number, part in enumerate(parts):
        if part is not None:
            if number and parts[number - 1] is not None:
                pieces.append("\n")
            pieces.append(part)
            continue
        after = parts[number + 1] if number + 1 < len(parts) else ""
        in_front = all(one is None for one in parts[:number])
        if after == "" or (after is not None and after[:1].isspace()):
            pieces.append(MARK)
        elif scene and in_front:
            pieces.append(f"scene {MARK} . ")
        else:
            pieces.append(f"{MARK}\n")
    return "".join(pieces)


def _message(message: Any, where: str) -> tuple[str, Any]:
    if not isinstance(message, dict):
        raise wrong(where, "an object with role and content is needed")
    role = message.get("role")
    if role in ("tool", "function"):
        raise wrong(f"{where}.role", f"'{role}': this server calls no tools")
    if role not in ("system", "developer", "user", "assistant"):
        raise wrong(f"{where}.role", "system, user or assistant is needed")
    for name, value in message.items():
        if name not in _KNOWN and value not in (None, [], {}):
            shown = name[:64].encode("ascii", "backslashreplace").decode()
            raise wrong(f"{where}.{shown}", "is not supported by this server")
    if message.get("content") is None:
        raise wrong(f"{where}.content", "is required")
    return role, message["content"]


def _parts(content: Any, where: str, urls: list[str], clean: Callable[[str], str]) -> list[Part]:
    if isinstance(content, str):
        return [clean(_sound(content, f"{where}.content"))]
    if not isinstance(content, list):
        raise wrong(f"{where}.content", "a text or a list of parts is needed")
    if not content:
        raise wrong(f"{where}.content", "the list of parts is empty")
    found: list[Part] = []
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise wrong(f"{place}.text", "a text is needed")
            found.append(clean(_sound(part["text"], f"{place}.text")))
        elif kind == "image_url":
            urls.append(_url(part.get("image_url"), f"{place}.image_url"))
            found.append(None)
        else:
            raise wrong(f"{place}.type", "text or image_url is needed")
    return found


def _url(value: Any, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("url"), str):
        raise wrong(f"{where}.url", "a text is needed: data:image/png;base64,…")
    if value.get("detail") not in _DETAILS:
        raise wrong(f"{where}.detail", "auto, low or high is needed")
    return value["url"]


def _sound(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise wrong(where, "holds half of a surrogate pair, which is no character") from None
    return text


def _text(parts: Sequence[Part], where: str, role: str) -> str:
    if None in parts:
        raise wrong(f"{where}.content", f"a {role} message holds no images")
    return "\n".join(part for part in parts if part is not None)


def _exchanges(turns: Sequence[tuple[str, str]]) -> tuple[tuple[str, str | None], ...]:
    """Return turns by twos; neighbours of the same role are one turn of several lines."""
    joined: list[tuple[str, list[str]]] = []
    for role, text in turns:
        if joined and joined[-1][0] == role:
            joined[-1][1].append(text)
        else:
            joined.append((role, [text]))
    texts = ["\n".join(lines) for _, lines in joined]
    return tuple(
        (texts[n], texts[n + 1] if n + 1 < len(texts) else None) for n in range(0, len(texts), 2)
    )


def no_system(template: str) -> ApiError:
    """Return the error where a template has no place for a system message."""
    return wrong(
        "messages[0].role",
        f"the model's template '{template}' has no system message; tell it as the user",
    )
