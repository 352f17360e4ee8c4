"""A request and an answer, as both APIs use them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass
class Request:
    """One request; `query` has the last value of each name."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    content_type: str
    token: str

    def json(self) -> Any:
        """Return the body, JSON or (server-side apply) YAML."""
        if not self.body:
            return {}
        return yaml.safe_load(self.body) if "yaml" in self.content_type else json.loads(self.body)


@dataclass
class Answer:
    """One answer; with `lines` it is streamed."""

    status: int = 200
    body: Any = None
    lines: Iterator[bytes] | None = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that ends in an error answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer.body))
        self.answer = answer


def failure(status: int, reason: str, message: str, **details: Any) -> Answer:
    """Return an error as Kubernetes tells it: a Status object."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": status,
    }
    return Answer(status, body)
