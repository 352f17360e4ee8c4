"""A model that answers: its words, its template, its engine."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vila_core.data.asking import Layout
from vila_core.data.encode import Encoder
from vila_core.data.templates import TOKENIZER
from vila_core.errors import UserError
from vila_core.model import VilaProcessor, load
from vila_ops.ask import end_ids
from vila_ops.serving import conversation, pictures
from vila_ops.serving.engine import Engine, Job
from vila_ops.serving.events import Hear
from vila_ops.serving.figures import Figures
from vila_ops.serving.holder import Opening
from vila_ops.serving.limits import Limits
from vila_ops.serving.problem import ApiError
from vila_ops.serving.request import ChatRequest
from vila_ops.serving.sampling import Sampling

DEFAULT_TEMPLATE = "vicuna_v1"
MINIATURE = "miniature"
LONGEST_TOKEN = 128
"""Characters; a text of more times the model's positions is refused without counting tokens."""


class Served:
    """A model in memory with its engine, which runs until `engine` is drained or aborted."""

    def __init__(self, model: Any, processor: VilaProcessor, template: str) -> None:
        """Take a loaded model. Raises UserError for a template that can't be used."""
        self.model, self.processor = model, processor
        self.template = template
        self.tokenizer: Any = copy.deepcopy(processor.tokenizer)  # the engine's thread has its own
        self._lock = threading.Lock()
        self._layout = Layout(template, processor.tokenizer)
        image_id, per_image = processor.image_token_id, processor.tokens_per_image
        self._clean = Encoder(processor.tokenizer, template, image_id, per_image).clean
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.positions = int(positions or 2**31)

    def engine(self, limits: Limits, figures: Figures) -> Engine:
        """Return an engine for this model, not started."""
        ends = frozenset(
            end_ids(self._layout.end, self.processor.tokenizer, self.model.generation_config).get(
                "eos_token_id", []
            )
        ) | frozenset(self._known_ends())
        return Engine(self.model, self.tokenizer, ends, self.model.tower_features, limits, figures)

    def job(
        self,
        request: ChatRequest,
        limits: Limits,
        fetch: pictures.Fetch,
        *,
        asker: str,
        asked_at: float,
        hear: Hear,
    ) -> Job:
        """Return the answer to write for a request. Raises ApiError for one that can't be."""
        said = conversation.read(
            request.messages,
            self._clean,
            scene=self.template == MINIATURE,
            most=limits.messages,
        )
        prompt = self._laid_out(said)
        ids = self._encoded(prompt)
        limit = self._limit(len(ids), request, limits)
        shown = pictures.read(said.urls, self.processor, limits, fetch)
        end = self._layout.end
        stops = [*request.stop, *([end] if end else [])]
        sampling = Sampling(request.temperature, request.top_p, request.seed)
        return Job(asker, ids, shown, limit, sampling, stops, hear, asked_at)

    def _laid_out(self, said: conversation.Conversation) -> str:
        if said.system is not None and not self._layout.takes_system:
            raise conversation.no_system(self.template)
        size = len(said.system or "") + sum(len(q) + len(a or "") for q, a in said.exchanges)
        if size > LONGEST_TOKEN * self.positions:
            raise _too_long(f"a text of {size:,} characters", self.positions)
        try:
            return self._layout.lay_out(said.exchanges, system=said.system)
        except UserError as error:  # a tokenizer's chat template may refuse a conversation
            raise ApiError(400, str(error), param="messages") from None

    def _encoded(self, prompt: str) -> Sequence[int]:
        tokenizer: Any = self.processor.tokenizer
        with self._lock:  # a tokenizer of transformers may not be used by two threads
            ids = tokenizer(
                self.processor.expand(prompt),
                add_special_tokens=self._layout.adds_special_tokens,
            )["input_ids"]
            unknown = tokenizer.unk_token_id
            words = []
            if unknown is not None and unknown in ids:
                words = [
                    word
                    for word in dict.fromkeys(prompt.replace(conversation.MARK, " ").split())
                    if unknown in tokenizer(word)["input_ids"]
                ]
        if words:
            shown = ", ".join(word[:40] for word in words[:10])
            raise ApiError(
                400,
                f"the model does not know the words: {shown}; it knows {tokenizer.vocab_size}, "
                "for example 'q color of circle'",
                param="messages",
                code="unknown_words",
            )
        if not ids:
            raise ApiError(400, "the conversation has no tokens; ask something", param="messages")
        return ids

    def _limit(self, length: int, request: ChatRequest, limits: Limits) -> int:
        """Return the longest answer. Raises ApiError where it doesn't fit behind the prompt."""
        room = self.positions - length
        asked = request.limit
        if room < 1 or (asked or 1) > room:
            more = f" and {asked} for the answer" if asked else ""
            raise _too_long(f"{length} tokens of messages{more}", self.positions)
        return asked or min(room, limits.answer)

    def _known_ends(self) -> list[int]:
        found: list[int] = []
        for source in (self.processor.tokenizer, self.model.generation_config):
            ends = getattr(source, "eos_token_id", None)
            found += [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        return found


def open_model(folder: Path, template: str | None, opening: Opening) -> Served:
    """Load a model folder. Raises UserError for one that holds none, or a missing device."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(opening.threads)
    if opening.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device; use --device auto")
    on_gpu = opening.device != "cpu" and torch.cuda.is_available()
    dtype = torch.bfloat16 if opening.precision == "bf16" else torch.float32
    model, processor = load(folder, dtype=dtype)
    model = model.to("cuda" if on_gpu else "cpu")  # type: ignore[arg-type]
    own = TOKENIZER if getattr(processor.tokenizer, "chat_template", None) else DEFAULT_TEMPLATE
    return Served(model, processor, opening.template or template or own)


def _too_long(what: str, positions: int) -> ApiError:
    return ApiError(
        400,
        f"This model's maximum context length is {positions} tokens, but {what} were asked for; "
        "shorten the messages or the answer",
        param="messages",
        code="context_length_exceeded",
    )
