"""What can be asked: a model of ours, one of transformers, or an endpoint, all by one interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from vila_core.eval.prompts import Prompt


@dataclass(frozen=True)
class Answer:
    """What a model said before the stop text; `finished` is False where it was cut short."""

    text: str
    finished: bool


class Answerer(Protocol):
    """A model that answers prompts. Answers do not depend on how prompts are batched."""

    @property
    def sees(self) -> bool:
        """Whether it can be shown images."""
        ...

    def describe(self) -> dict[str, str]:
        """Return what identifies it in a result: kind, name, template, precision and the like."""
        ...

    def written(self, prompt: Prompt) -> Prompt:
        """Return the prompt with `text` as the model is really given it.

        A plain prompt (without `turns`) comes back as it is; a conversation is laid out by the
        model's chat template.
        """
        ...

    def answers(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: str | None, blind: bool
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield batches of (index of the prompt, answer), in any order.

        An answer ends before `stop` (None: only at the end token) or after `max_new_tokens`.
        `blind` replaces every image by one without content. Prompts are those that `written` made.
        Raises UserError naming `prompt.where` for one that can't be asked.
        """
        ...

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield batches of (index, log-likelihood of each of the prompt's choices), in nats.

        Images and demonstrations, which the choices of a prompt share, are computed once. Raises
        UserError where the model gives no likelihoods (an endpoint).
        """
        ...
