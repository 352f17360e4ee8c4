"""Prompts as a processor of transformers takes them: its chat template, its marks for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.items import IMAGE
from vila_core.eval.prompts import Prompt, Turn

_BEFORE, _AFTER = "alpha", "omega"


class Writer:
    """Writes prompts for one processor.

    Where its chat template leaves images between the texts that they stand between, turns are given
    to it in parts. One that moves them (LLaVA-1.5's puts all in front) gets each turn as one text
    with the marks in place: in interleaved prompts the place of an image has a meaning. So does a
    language model's own template, which knows texts only.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._chats = bool(getattr(processor, "chat_template", None))
        between = self._between() if self._chats else None
        self._in_parts = between is not None
        self._in_strings = self._chats and between is None and self._knows_strings_only()
        names = ("image_token", "boi_token")
        known = [
            value for name in names if isinstance(value := getattr(processor, name, None), str)
        ]
        mark = (between or "").strip() or next(iter(known), "")
        if not mark:
            raise UserError(
                f"{type(processor).__name__}: does not say how it marks an image in a text; this "
                "model can't be asked through transformers, ask it through an endpoint"
            )
        self.mark = mark

    def write(self, prompt: Prompt) -> str:
        """Return the prompt's text. Raises UserError for a conversation without a template."""
        if not prompt.turns:
            return prompt.text.replace(IMAGE, self.mark)
        if not self._chats:
            raise UserError(
                f"{where(prompt)}: is a conversation, but the model's processor has no chat "
                "template; ask with the plain layout"
            )
        messages: list[dict[str, Any]] = []
        for turn in prompt.turns:
            messages += self._messages(turn)
        return self._render(messages, where(prompt))

    def check(self, prompt: Prompt) -> None:
        """Raise UserError unless a written prompt has a mark per image."""
        places = prompt.text.count(self.mark)
        if places != len(prompt.images):
            raise UserError(
                f"{where(prompt)}: the prompt has {places} places for {len(prompt.images)} images; "
                "give each image its place"
            )

    def _messages(self, turn: Turn) -> list[dict[str, Any]]:
        if self._in_parts:
            content = parts(turn.user)
        else:
            content = self._text(turn.user.replace(IMAGE, self.mark))
        messages = [{"role": "user", "content": content}]
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": self._text(turn.answer)})
        return messages

    def _text(self, text: str) -> Any:
        return text if self._in_strings else [{"type": "text", "text": text}]

    def _between(self) -> str | None:
        """Return what the template writes for an image between two texts, None if not there."""
        texts = [{"type": "text", "text": text} for text in (_BEFORE, _AFTER)]
        content = [texts[0], {"type": "image"}, texts[1]]
        try:
            text = self._render([{"role": "user", "content": content}], "the chat template")
        except UserError:
            return None
        _, _, rest = text.partition(_BEFORE)
        between, found, _ = rest.partition(_AFTER)
        printed = "'type'" in between  # the list itself, as Python writes it
        return between if found and between.strip() and not printed else None

    def _knows_strings_only(self) -> bool:
        """Tell whether the template fails at a text in parts, or prints the list of them."""
        content = [{"type": "text", "text": _BEFORE}]
        try:
            return "'type'" in self._render([{"role": "user", "content": content}], "")
        except UserError:
            return True

    def _render(self, messages: Sequence[dict[str, Any]], name: str) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return self._processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(
                f"{name}: the model's chat template can't write this conversation: {error}; ask "
                "with the plain layout"
            ) from None


def parts(user: str) -> list[dict[str, Any]]:
    """Return a user's text as parts; the line break behind an image is the template's own."""
    first, *rest = user.split(IMAGE)
    found: list[dict[str, Any]] = [{"type": "text", "text": first}] if first else []
    for text in rest:
        found.append({"type": "image"})
        if text := text.removeprefix("\n"):
            found.append({"type": "text", "text": text})
    return found


def where(prompt: Prompt) -> str:
    """Return how a message names a prompt."""
    return prompt.where or repr(prompt.text[:60])
