"""`POST /v1/chat/completions`: from a request's bytes to the answer, whole or as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from vila_ops.serving import request as requests
from vila_ops.serving.events import Event, Failed, Finished, Piece
from vila_ops.serving.holder import Holder, Loaded
from vila_ops.serving.pictures import Fetch
from vila_ops.serving.problem import ApiError, unavailable
from vila_ops.serving.request import ChatRequest
from vila_ops.serving.shapes import Shape, event

if TYPE_CHECKING:
    from vila_ops.serving.engine import Job

log = logging.getLogger("vila.serve")

READERS = 2
"""Threads that decode images and count tokens: an image takes up to 150 MB meanwhile."""
SIGN_S = 15.0
"""A stream that has nothing to say says so that often: proxies end silent connections."""
STUCK_S = 60.0
"""A reader that takes nothing for so long has left."""
CLIENT_LEFT = 499


class _Left(Exception):
    """The client went away."""


class Chat:
    """An ASGI application for one path. For one event loop."""

    def __init__(self, holder: Holder, fetch: Fetch) -> None:
        self._holder, self._fetch = holder, fetch
        self._limits = holder.limits
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._under_way = 0
        self._bytes = 0

    def close(self) -> None:
        """Let the threads go."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked_at = time.monotonic()
        request = Request(scope, receive)
        asker = str(request.state.asker)
        status = 500
        self._under_way += 1
        try:
            status = await self._answer(request, asker, asked_at, receive, send)
        except ApiError as error:
            status = error.status
            await JSONResponse(error.body, status, error.headers)(scope, receive, send)
        except (_Left, ClientDisconnect):
            status = CLIENT_LEFT
        finally:
            self._under_way -= 1
            self._holder.figures.request(status)
            seconds = time.monotonic() - asked_at
            log.info("chat %d, %s, %.3f s", status, asker or "anybody", seconds)

    async def _answer(
        self, request: Request, asker: str, asked_at: float, receive: Receive, send: Send
    ) -> int:
        self._ready()
        if self._under_way > self._limits.queue + self._limits.batch:
            raise ApiError(
                429,
                f"{self._under_way - 1} requests are under way already; ask again later",
                code="rate_limit_exceeded",
                retry_after_s=1,
            )
        asked = requests.read(await self._body(request))
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hear(one: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(events.put_nowait, one)

        loaded, job = await self._submitted(asked, asker, asked_at, hear)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            shape = Shape(
                loaded.origin if not self._holder.is_folder else self._holder.id,
                len(job.ids),
                fingerprint=f"fp_{loaded.sha256[:12]}" if loaded.sha256 else None,
                usage=asked.stream_options is not None and asked.stream_options.include_usage,
            )
            if asked.stream:
                return await _stream(events, shape, gone, send)
            return await _whole(events, shape, gone, request.scope, receive, send)
        finally:
            gone.cancel()
            loaded.engine.cancel(job)  # no more of it is needed, whatever happened

    def _ready(self) -> Loaded:
        if self._holder.stopping:
            raise unavailable("the server is shutting down; ask another one, or again later")
        if self._holder.current is None:
            raise unavailable("the model is being loaded; ask again in a few seconds")
        return self._holder.current

    async def _submitted(
        self, asked: ChatRequest, asker: str, asked_at: float, hear: Callable[[Event], None]
    ) -> tuple[Loaded, Job]:
        """Queue the answer with the model in memory, which may be exchanged meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            loaded = self._ready()
            names = self._holder.names()
            if asked.model not in names:
                shown = asked.model[:100].encode("ascii", "backslashreplace").decode()
                raise ApiError(
                    404,
                    f"The model '{shown}' does not exist; this server has: {', '.join(names)}",
                    param="model",
                    code="model_not_found",
                )

            def prepare(loaded: Loaded = loaded) -> Job:
                return loaded.served.job(
                    asked, self._limits, self._fetch, asker=asker, asked_at=asked_at, hear=hear
                )

            job = await loop.run_in_executor(self._readers, prepare)
            try:
                loaded.engine.submit(job)
            except ApiError:
                if loaded is self._holder.current:
                    raise
                continue
            return loaded, job

    async def _body(self, request: Request) -> bytes:
        """Return the request's content, within the bounds of size and time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # What a form of a foreign page can send without asking is not taken either.
            raise ApiError(415, "Content-Type: application/json is needed")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "a compressed request is not taken; send it as it is")
        most = self._limits.body_bytes
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > most:
            raise _too_large(most)
        data = bytearray()
        held = 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for chunk in request.stream():
                    if len(data) + len(chunk) > most:
                        raise _too_large(most)
                    if self._bytes + len(chunk) > self._limits.bodies_bytes:
                        raise ApiError(
                            429,
                            "too many large requests are being read; ask again later",
                            code="rate_limit_exceeded",
                            retry_after_s=1,
                        )
                    held += len(chunk)
                    self._bytes += len(chunk)
                    data += chunk
        except TimeoutError:
            seconds = self._limits.body_s
            raise ApiError(408, f"the request did not arrive within {seconds:g} s") from None
        finally:
            self._bytes -= held
        return bytes(data)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is larger than {most:,} bytes", code="request_too_large")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _next(
    events: asyncio.Queue[Event], gone: asyncio.Future[None], seconds: float | None
) -> list[Event]:
    """Return what there is to hear; nothing after so many seconds. Raises _Left."""
    if events.empty():
        waiting = asyncio.ensure_future(events.get())
        done, _ = await asyncio.wait(
            {waiting, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if waiting not in done:
            waiting.cancel()
            if gone in done:
                raise _Left
            return []
        found = [waiting.result()]
    else:
        found = []
    while not events.empty():
        found.append(events.get_nowait())
    return found


async def _whole(
    events: asyncio.Queue[Event],
    shape: Shape,
    gone: asyncio.Future[None],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> int:
    text = ""
    while True:
        for one in await _next(events, gone, None):
            if isinstance(one, Failed):
                raise one.error
            text += one.text
            if isinstance(one, Finished):
                body = shape.whole(text, one.reason, one.tokens)
                await JSONResponse(body)(scope, receive, send)
                return 200


async def _stream(
    events: asyncio.Queue[Event], shape: Shape, gone: asyncio.Future[None], send: Send
) -> int:
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx would collect the pieces
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    data, status = shape.first(), 0
    while True:
        try:
            async with asyncio.timeout(STUCK_S):
                await send({"type": "http.response.body", "body": data, "more_body": status == 0})
        except TimeoutError:
            raise _Left from None
        if status:
            return status
        heard = await _next(events, gone, SIGN_S)
        data = b"" if heard else b": still at work\n\n"
        for one in heard:
            if isinstance(one, Failed):
                data += event(one.error.body)
                status = one.error.status
            elif isinstance(one, Piece):
                data += shape.piece(one.text)
            else:
                data += shape.last(one.text, one.reason, one.tokens)
                status = 200
