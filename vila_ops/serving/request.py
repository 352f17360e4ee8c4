"""A chat request, read from JSON with OpenAI's parameters: checked before anything is done.

Parameters fall into four kinds: those that are obeyed, those that only say who asks or where to
keep things (ignored), those that would change the answer in ways that this server does not know
(refused, unless they ask for nothing), and unknown ones (refused, as OpenAI does).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vila_ops.serving.problem import ApiError, wrong

STOPS = 4
LONGEST_STOP = 256
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""They name the asker, or where OpenAI is to keep or bill something."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""What isn't supported, with the values (null besides) that ask for nothing."""


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The parameters that are obeyed. `messages` are read by `conversation.read`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(min_length=1, max_length=512)
    messages: list[Any] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, ge=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: tuple[str, ...] = ()
    stream: bool = False
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        stops = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
            raise ValueError("a text or a list of texts is needed")
        if len(stops) > STOPS:
            raise ValueError(f"{len(stops)} texts, of which {STOPS} are allowed")
        if not all(0 < len(one) <= LONGEST_STOP for one in stops):
            raise ValueError(f"each text needs 1 to {LONGEST_STOP} characters")
        return tuple(stops)

    @property
    def limit(self) -> int | None:
        """The longest answer in tokens, where the request names it."""
        return self.max_completion_tokens or self.max_tokens


_PLAIN = ("temperature", "top_p", "stream")
"""Parameters whose null means their default."""


def read(body: bytes) -> ChatRequest:
    """Return the request. Raises ApiError, which names the parameter."""
    values = _object(body)
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name in IGNORED or (value is None and name in (*NEUTRAL, *_PLAIN)):
            continue
        if name in NEUTRAL:
            if not any(_same(value, neutral) for neutral in NEUTRAL[name]):
                raise wrong(name, _not_supported(name), "unsupported_parameter")
        elif name not in ChatRequest.model_fields:
            raise ApiError(
                400,
                f"Unrecognized request argument supplied: {_shown(name)}",
                param=_shown(name),
                code="unknown_parameter",
            )
        else:
            given[name] = value
    try:
        found = ChatRequest.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        raise wrong(param, f"{message[:1].lower()}{message[1:]}") from None
    if found.stream_options is not None and not found.stream:
        raise wrong("stream_options", "only goes with stream: true")
    return found


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the request is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise ApiError(400, "the request is not usable JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the request is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(values, dict):
        raise ApiError(400, "the request is not a JSON object")
    return values


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _same(value: Any, neutral: Any) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _not_supported(name: str) -> str:
    if name == "n":
        return "this server writes one answer per request; ask several times, with another seed"
    allowed = " or ".join(json.dumps(one) for one in NEUTRAL[name])
    return (
        "is not supported by this server; "
        + (f"use {allowed}, or " if allowed else "")
        + ("leave it out")
    )


def _shown(name: str) -> str:
    return name[:64].encode("ascii", "backslashreplace").decode()
