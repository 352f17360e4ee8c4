"""Conversations up to the answer that is wanted: as a template had them in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vila_core.data.chat import ChatTemplate
from vila_core.data.templates import EOS, TOKENIZER, get_template, opening, with_eos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Exchange = tuple[str, str | None]
"""What the user says, with `<image>` where images belong, and the answer; the last has None."""


class Layout:
    """One template with one tokenizer, for asking.

    Raises UserError for an unknown template, and for a tokenizer's own that can't be used.
    """

    def __init__(self, template: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.template = template
        self._chat = None
        if template == TOKENIZER:
            if tokenizer is None:
                raise ValueError("the template 'tokenizer' needs the tokenizer")
            self._chat = ChatTemplate(tokenizer)
        self._form = get_template(template)
        eos = "" if tokenizer is None else str(tokenizer.eos_token or "")
        self._filled = with_eos(self._form, eos)

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer has still to put its special tokens (BOS) in front."""
        return self._chat is None

    @property
    def end(self) -> str:
        """What ends an answer, without blanks; empty where that is the tokenizer's end token."""
        if self._chat is not None:
            return self._chat.end.strip()
        end = self._form.assistant_end.strip()
        return "" if end == EOS else end

    @property
    def takes_system(self) -> bool:
        """Whether a system text has its own place."""
        form = self._form
        return self._chat is not None or bool(form.system_start or form.system_end)

    def lay_out(self, exchanges: Sequence[Exchange], *, system: str | None = None) -> str:
        """Return the conversation up to where the last answer starts.

        `system` stands in place of the template's own system text. A blank before the answer is
        part of the answer's first token and left out; a line break is not. Raises UserError for a
        chat template that can't take it.
        """
        if self._chat is not None:
            text = self._chat.conversation(exchanges, system=system)
        else:
            form = self._filled
            pieces = [opening(form)]
            if system is not None:
                pieces = [form.system_start, system, form.system_end]
            for number, (user, answer) in enumerate(exchanges):
                pieces.append(form.between_turns if number else "")
                pieces += [form.user_start, user, form.user_end, form.assistant_start]
                pieces += [] if answer is None else [answer, form.assistant_end]
            text = "".join(pieces)
        return text.rstrip(" ")
