"""Servers in tests: in a thread of the test's process, and as processes of their own."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

from vila_core.store import open_store
from vila_ops.serving.app import create_app
from vila_ops.serving.holder import Holder, Opening
from vila_ops.serving.limits import Limits
from vila_ops.serving.pictures import Fetch
from vila_ops.serving.remote import refuse
from vila_ops.web.serve import QuietServer, listening
from vila_ops.web.tokens import Tokens

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"


class Serving:
    """A server of a model in a thread, and a client of it."""

    def __init__(self, url: str, holder: Holder) -> None:
        self.url, self.holder = url, holder
        self.client = httpx.Client(base_url=url, timeout=60)

    def chat(self, *content: Any, **parameters: Any) -> httpx.Response:
        """Ask one question: texts, images' bytes or parts."""
        messages = parameters.pop("messages", None) or [user(*content)]
        body = {"model": self.holder.id, "messages": messages, "max_tokens": 8, **parameters}
        return self.client.post(CHAT, json=body)

    def text(self, *content: Any, **parameters: Any) -> str:
        answer = self.chat(*content, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    def metric(self, line: str) -> float:
        text = self.client.get("/metrics").text
        return float(
            next(row for row in text.splitlines() if row.startswith(f"{line} ")).split()[-1]
        )


@contextlib.contextmanager
def serving(
    place: Path | str,
    *,
    store: Path = Path("/nowhere"),
    limits: Limits | None = None,
    fetch: Fetch = refuse,
    tokens: Tokens | None = None,
    template: str | None = None,
    wait: bool = True,
) -> Iterator[Serving]:
    """Serve a model folder, or a version in a store, until the block ends."""
    told: list[str] = []
    holder = Holder(
        open_store(store), str(place), Opening(template), limits or Limits(), say=told.append
    )
    app = create_app(holder, fetch, tokens)
    server = QuietServer(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=20))
    with listening("127.0.0.1", 0) as (sock, address):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        one = Serving(address, holder)
        holder.start(lambda: None)
        try:
            until = time.monotonic() + 240
            while wait and holder.current is None:
                assert holder.failure is None, holder.failure
                assert time.monotonic() < until
                time.sleep(0.01)
            yield one
        finally:
            one.client.close()
            holder.stop(10)
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


class Process:
    """`vila serve` as a process of its own, on a free port."""

    def __init__(self, *words: object, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "vila_ops.cli.main", "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)", line)
        if found is None:
            _, err = self.process.communicate()
            raise RuntimeError(f"{line}{err}")
        self.url = f"http://127.0.0.1:{found.group(1)}"
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said.append(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def until_ready(self, seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while httpx.get(f"{self.url}/healthz").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.1)

    def until_said(self, text: str, seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not any(text in line for line in self.said):
            assert time.monotonic() < until, self.said
            time.sleep(0.05)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        timer = threading.Timer(240, self.process.kill)
        timer.start()
        assert self.process.stderr is not None
        err = self.process.stderr.read()
        self.process.wait()
        timer.cancel()
        return self.process.returncode, err


def user(*content: Any) -> dict[str, Any]:
    """Return a user's message of texts, images' bytes and parts."""
    if len(content) == 1 and isinstance(content[0], str):
        return {"role": "user", "content": content[0]}
    return {"role": "user", "content": [part(one) for one in content]}


def part(one: Any) -> Any:
    if isinstance(one, str):
        return {"type": "text", "text": one}
    if isinstance(one, bytes):
        url = f"data:image/png;base64,{base64.b64encode(one).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}
    return one


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def noise(size: tuple[int, int] = (40, 32), sigma: float = 60) -> Image.Image:
    return Image.effect_noise(size, sigma).convert("RGB")


def events(text: str) -> list[Any]:
    """Return what a stream holds: its JSON objects, then "[DONE]"."""
    found: list[Any] = []
    for block in text.split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
        else:
            assert block == "" or block.startswith(": ")
    return found
