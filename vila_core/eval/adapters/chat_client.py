"""Requests to an OpenAI-compatible chat endpoint: patient where waiting helps, clear where not."""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import urllib3

from vila_core.errors import UserError, VilaError
from vila_core.jsonio import dumps

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_WAIT_S = 600.0
_LARGEST_REPLY = 64 * 2**20


class Stopped(Exception):
    """Another request failed for good while this one was waiting."""


@dataclass(frozen=True)
class Reply:
    """What the model said, and why it ended: `stop`, `length` or another word of the server's."""

    text: str
    reason: str


@dataclass
class ChatClient:
    """One model behind one endpoint. Threads may share it.

    `url` is the API's base (`http://localhost:8000/v1`). `key` goes into the Authorization header
    and nowhere else. A server that is busy, limits the rate or breaks off is asked again up to
    `retries` times: after the time that it names (`Retry-After`), else after 1, 2, 4 … seconds.
    `timeout_s` bounds one try, its answer's arrival included.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout_s: float = 120.0
    retries: int = 6
    first_wait_s: float = 1.0

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(num_pools=2, maxsize=self.concurrency, retries=False)
        self._limit = "max_tokens"

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: str | None = None,
        stopping: threading.Event | None = None,
    ) -> Reply:
        """Return the reply to a conversation.

        Raises UserError where asking again can't help (a refused key, an unknown model, a request
        that the server calls wrong), VilaError where it didn't, and `Stopped` when `stopping` is
        set while waiting.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        body["temperature"] = temperature
        if stop:
            body["stop"] = [stop]
        stopping = stopping or threading.Event()
        trouble = ""
        for number in range(self.retries + 1):
            if stopping.is_set():
                raise Stopped
            wait = min(self.first_wait_s * 2**number, 60.0) * random.uniform(0.75, 1.0)
            limit = self._limit
            try:
                status, headers, data = self._post(dumps({**body, limit: max_new_tokens}))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                trouble = self._clean(_short(error))
            else:
                if status == 200:
                    try:
                        return _reply(data)
                    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                        trouble = f"no chat completion came back: {self._clean(_said(data))}"
                elif status == 400 and limit == "max_tokens" and b"max_completion_tokens" in data:
                    self._limit = "max_completion_tokens"  # what newer OpenAI models call it
                    continue
                elif status in _AGAIN and b"insufficient_quota" not in data:
                    trouble = f"{status}: {self._clean(_said(data))}"
                    wait = max(wait, _retry_after(headers.get("retry-after")))
                else:
                    raise self._refusal(status, data)
            if number < self.retries and stopping.wait(wait):
                raise Stopped
        tries = "once" if not self.retries else f"{self.retries + 1} times"
        raise VilaError(
            f"{self.url}: the model '{self.model}' gave no answer, asked {tries}; the last time: "
            f"{trouble}. Finished answers are kept: run the same again when it is back."
        )

    def _post(self, body: str) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request; return status, headers and content."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        until = time.monotonic() + self.timeout_s
        response = self._pool.request(
            "POST",
            f"{self.url.rstrip('/')}/chat/completions",
            body=body.encode("utf-8", "replace"),
            headers=headers,
            timeout=urllib3.Timeout(connect=min(10.0, self.timeout_s), read=self.timeout_s),
            redirect=False,  # a redirect would carry the key elsewhere
            preload_content=False,
        )
        data = bytearray()
        whole = False
        try:
            while chunk := response.read1(65_536):
                data += chunk
                if time.monotonic() > until:  # a server may drip for ever
                    raise TimeoutError(f"the answer took longer than {self.timeout_s:g} seconds")
                if len(data) > _LARGEST_REPLY:
                    raise OSError(f"the answer is larger than {_LARGEST_REPLY} bytes")
            whole = True
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()
        return response.status, response.headers, bytes(data)

    def _refusal(self, status: int, data: bytes) -> UserError:
        said = self._clean(_said(data))
        fix = {
            401: f"put a valid key into the environment variable {self.key_env}",
            403: f"the key in {self.key_env} may not use this model; use another key or model",
            404: "check the endpoint's url (it ends in /v1 mostly) and its model",
            413: "its server takes no prompts of this size; ask with fewer shots",
            429: "the account's quota is used up; raise it",
        }.get(status, "check the endpoint's url and model, and what its server accepts")
        if 300 <= status < 400:
            fix = "it redirects elsewhere, which is not followed; give the final url"
        return UserError(
            f"{self.url}: the model '{self.model}' refuses with {status}: {said}; fix: {fix}"
        )

    def _clean(self, text: str) -> str:
        """Return a message without the key, which some servers repeat."""
        return text.replace(self.key, "[key]") if self.key else text


def _reply(data: bytes) -> Reply:
    choice = json.loads(data)["choices"][0]
    text = choice["message"].get("content")
    if isinstance(text, list):
        text = "".join(part.get("text", "") for part in text)
    if text is not None and not isinstance(text, str):
        raise TypeError("content is no text")
    # JSON may hold half a surrogate pair, which no file can.
    text = (text or "").encode("utf-8", "replace").decode()
    return Reply(text, str(choice.get("finish_reason") or "stop"))


def _said(data: bytes) -> str:
    """Return what a server says about an error, in one short line."""
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(text)
        error = value.get("error", value)
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    line = " ".join(text.split())
    return "".join(c for c in line if c.isprintable())[:300] or "(nothing)"


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return (" ".join(str(reason).split()) or type(error).__name__)[:300]


def _retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 without one."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S) if seconds == seconds else 0.0
