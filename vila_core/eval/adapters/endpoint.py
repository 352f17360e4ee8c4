"""A served model behind an OpenAI-compatible chat endpoint, as answerer and as judge."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from PIL import Image

from vila_core.errors import UserError, VilaError
from vila_core.eval.adapters.chat_client import ChatClient, Stopped
from vila_core.eval.adapters.conversation import parts, where
from vila_core.eval.answerer import Answer
from vila_core.eval.files import ImageRef, read_image
from vila_core.eval.items import IMAGE
from vila_core.eval.prompts import Prompt, Turn
from vila_core.images import BadImage, check_header, decode
from vila_core.jsonio import dumps

_KINDS = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}
"""The formats that servers take; others are sent as PNG."""


def chat_client(
    url: str, model: str, *, key_env: str = "OPENAI_API_KEY", **settings: Any
) -> ChatClient:
    """Return a client whose key, if there is one, comes from the environment variable `key_env`."""
    key = (os.environ.get(key_env) or "").strip() or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError(f"{key_env}: holds characters that no key has; set it again")
    return ChatClient(url, model, key=key, key_env=key_env, **settings)


class EndpointAnswerer:
    """Answers prompts through an endpoint, several requests at a time; an `Answerer`.

    Images are sent as data URLs, in their places between the texts. Conversations are sent as such;
    the server's own template writes them. A plain prompt is one message of the user.
    """

    sees = True

    def __init__(self, client: ChatClient) -> None:
        self._client = client

    def describe(self) -> dict[str, str]:
        """Return where the model is served, under which name."""
        return {
            "kind": "endpoint",
            "name": self._client.model,
            "url": self._client.url,
            "template": "the server's",
            "decoding": "temperature 0",
        }

    def written(self, prompt: Prompt) -> Prompt:
        """Return a conversation with `text` as the messages that are sent, images left out."""
        if not prompt.turns:
            return prompt
        turns = [
            [turn.user, *([] if turn.answer is None else [turn.answer])] for turn in prompt.turns
        ]
        return replace(prompt, text=dumps(turns))

    def answers(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        stop: str | None,
        blind: bool = False,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield answers as they come in.

        When a request fails for good, nothing more is asked; what was under way is yielded first.
        """
        stopping = threading.Event()

        def ask(prompt: Prompt) -> Answer:
            reply = self._client.complete(
                _messages(prompt, blind),
                max_new_tokens=max_new_tokens,
                stop=stop,
                stopping=stopping,
            )
            text, stopped, _ = reply.text.partition(stop) if stop else (reply.text, "", "")
            return Answer(text.strip(), bool(stopped) or reply.reason != "length")

        waiting = iter(range(len(prompts)))
        under_way: dict[Future[Answer], int] = {}
        failure: VilaError | None = None
        pool = ThreadPoolExecutor(self._client.concurrency, thread_name_prefix="endpoint")
        try:
            while True:
                while failure is None and len(under_way) < self._client.concurrency:
                    if (n := next(waiting, None)) is None:
                        break
                    under_way[pool.submit(ask, prompts[n])] = n
                if not under_way:
                    break
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                answered: list[tuple[int, Answer]] = []
                for future in done:
                    n = under_way.pop(future)
                    try:
                        answered.append((n, future.result()))
                    except Stopped:
                        continue
                    except VilaError as error:
                        failure = failure or error
                        stopping.set()
                if answered:
                    yield sorted(answered, key=lambda pair: pair[0])
        finally:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
        if failure is not None:
            raise failure

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool = False
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Raise UserError: a chat endpoint gives no likelihood of a text that it is given."""
        raise UserError(
            f"{self._client.url}: a chat endpoint gives no likelihoods; let it generate the answers"
        )


class EndpointJudge:
    """A model behind an endpoint as the judge of LLaVA-Bench and MM-Vet; a `Judge`."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client

    def describe(self) -> dict[str, str]:
        """Return where the judge is served, under which name."""
        return {"kind": "endpoint", "name": self._client.model, "url": self._client.url}

    def judge(self, prompt: str, *, system: str, temperature: float, max_new_tokens: int) -> str:
        """Return the reply to a prompt, after a system message where there is one."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        reply = self._client.complete(
            messages, max_new_tokens=max_new_tokens, temperature=temperature
        )
        return reply.text


def _messages(prompt: Prompt, blind: bool) -> list[dict[str, Any]]:
    turns = prompt.turns or (Turn(prompt.text),)
    images = iter(prompt.images)
    places = sum(turn.user.count(IMAGE) for turn in turns)
    if places != len(prompt.images):
        raise UserError(
            f"{where(prompt)}: the prompt has {places} {IMAGE} places for {len(prompt.images)} "
            "images; give each image its place"
        )
    messages: list[dict[str, Any]] = []
    for turn in turns:
        content: Any = turn.user
        if IMAGE in turn.user:
            content = [
                part if part["type"] == "text" else _shown(next(images), blind)
                for part in parts(turn.user)
            ]
        messages.append({"role": "user", "content": content})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages


def _shown(image: ImageRef, blind: bool) -> dict[str, Any]:
    data = read_image(image)
    try:
        kind = _KINDS.get(check_header(data, min_side=1), "")
        if blind or not kind:
            shown = decode(data)
            if blind:  # of the same size: servers make more tokens of larger images
                shown = Image.new("RGB", shown.size, (127, 127, 127))
            file = io.BytesIO()
            shown.save(file, "PNG")
            data, kind = file.getvalue(), "image/png"
    except BadImage as error:
        raise UserError(f"{image}: {error}; replace it or drop the items that show it") from None
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
