"""Answers in the shape of OpenAI's API."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from vila_ops.serving.events import Reason


@dataclass(frozen=True)
class Shape:
    """What all parts of one answer have in common. `usage`: its stream ends with the counts."""

    model: str
    prompt_tokens: int
    fingerprint: str | None = None
    usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, reason: Reason, tokens: int) -> dict[str, Any]:
        """Return an answer in one piece."""
        return {
            **self._frame("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": reason,
                }
            ],
            "usage": self._usage(tokens),
        }

    def first(self) -> bytes:
        """Return the chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None}, None)

    def piece(self, text: str) -> bytes:
        """Return a chunk with more text."""
        return self._chunk({"content": text}, None)

    def last(self, text: str, reason: Reason, tokens: int) -> bytes:
        """Return the chunks that end a stream."""
        data = self.piece(text) if text else b""
        data += self._chunk({}, reason)
        if self.usage:
            frame = self._frame("chat.completion.chunk")
            data += event({**frame, "choices": [], "usage": self._usage(tokens)})
        return data + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: Reason | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        more: dict[str, Any] = {"usage": None} if self.usage else {}
        return event({**self._frame("chat.completion.chunk"), "choices": [choice], **more})

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _usage(self, tokens: int) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }


def event(value: dict[str, Any]) -> bytes:
    """Return one event of a stream (server-sent events)."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
