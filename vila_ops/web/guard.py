"""Between the network and the pages: who may pass, how often, and what every answer carries."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vila_ops.web.access import Access, is_loopback
from vila_ops.web.api.problem import Problem
from vila_ops.web.audit import event_of
from vila_ops.web.limits import Buckets, Refusal, client_of, same_client

OPEN = ("/healthz", "/livez", "/login", "/login/oidc", "/login/callback")
LOGINS = (("POST", "/login"), ("GET", "/login/callback"))
"""What counts as a try to log in."""
STATIC = "/static/"
API = "/api/"
SAFE = ("GET", "HEAD", "OPTIONS")
MOST_BYTES = 2**20
"""Of a request's body."""
ANSWER_SECONDS = 60.0
"""Until an answer begins; a stream may take longer to end."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
        "img-src 'self' data: blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")

log = logging.getLogger("vila.dashboard")


class Guard:
    """ASGI middleware. Without tokens it answers only requests that name this machine."""

    def __init__(
        self, app: ASGIApp, access: Access, broken: Callable[[Request, Exception], Response]
    ) -> None:
        """Guard an application; `broken` makes the answer where it failed."""
        self._app = app
        self._access = access
        self._broken = broken
        self._late: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on with `request.state.viewer` and `.client` set."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, status = Request(scope), 0
        scope.setdefault("state", {})
        request.state.viewer = None
        request.state.client = client = client_of(request, self._access.proxies)

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if scope["path"].startswith(STATIC):
                    headers.setdefault("Cache-Control", "no-cache")
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refused = await self._refuse(request, client)
            if refused:
                await refused(scope, receive, with_headers)
            else:
                await self._answer(request, _bounded(receive), with_headers)
        except Exception as error:
            if status:
                raise
            await self._broken(request, error)(scope, receive, with_headers)
        finally:
            self._tell(request, client, status)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        """Have the application answer; one that does not begin to in time goes on unheard."""
        begun = given_up = False

        async def unless_given_up(message: Message) -> None:
            nonlocal begun
            if not given_up:
                begun = True
                await send(message)

        work = asyncio.ensure_future(self._app(request.scope, receive, unless_given_up))
        try:
            done, _ = await asyncio.wait({work}, timeout=ANSWER_SECONDS)
            if done or begun:
                await work
                return
        except asyncio.CancelledError:
            work.cancel()
            raise
        given_up = True
        self._late.add(work)
        work.add_done_callback(self._late_end)
        text = f"no answer within {ANSWER_SECONDS:.0f} s, the store may be slow: try again"
        await _refusal(request, 503, text)(request.scope, receive, send)

    def _late_end(self, work: asyncio.Future[None]) -> None:
        self._late.discard(work)
        if not work.cancelled() and work.exception() is not None:
            log.warning("a request that took too long failed in the end: %r", work.exception())

    async def _refuse(self, request: Request, client: str) -> Response | None:
        access, path = self._access, request.scope["path"]
        if request.method not in SAFE and not same_site(request, access.url):
            return _refusal(request, 403, "the page of another site sent this")
        if _too_large(request):
            return _refusal(request, 413, f"a request may have {MOST_BYTES:,} bytes at most")
        if not access.guarded:
            if not is_loopback(host_of(request)):
                text = "without tokens only this machine is answered: open http://127.0.0.1 instead"
                return _refusal(request, 421, text)
            request.state.viewer = access.owner
            return None
        if path.startswith(STATIC) or path in ("/healthz", "/livez"):
            return None
        who = same_client(client)
        full = self._buckets(request).take(who)
        if full is None and (request.method, path) in LOGINS:
            full = access.logins.take(who)
        return self._full(request, full) if full else await self._identify(request, who)

    async def _identify(self, request: Request, client: str) -> Response | None:
        """Find out who asks; return the answer for those who are nobody."""
        access, path = self._access, request.scope["path"]
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        viewer = None
        if scheme.lower() == "bearer":
            viewer = access.of_bearer(token.strip())
            if viewer is None:
                full = access.logins.take(client)
                if full:
                    return self._full(request, full)
                request.state.audit = {"action": "send a token", "what": path}
        else:
            viewer = await access.of_session(request)
        request.state.viewer = viewer
        if viewer is not None:
            full = self._buckets(request).take(f"viewer {viewer.name}")
            return self._full(request, full) if full else None
        if path in OPEN:
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"/login?next={quote(_asked(request), safe='')}", 303)
        text = "a token is needed: Authorization: Bearer TOKEN"
        return _refusal(request, 401, text, {"WWW-Authenticate": "Bearer"})

    def _buckets(self, request: Request) -> Buckets:
        return self._access.reads if request.method in SAFE else self._access.writes

    def _full(self, request: Request, refusal: Refusal) -> Response:
        request.state.often = refusal.first
        seconds = math.ceil(refusal.seconds)
        text = f"too many requests: try again in {seconds} s"
        return _refusal(request, 429, text, {"Retry-After": str(seconds)})

    def _tell(self, request: Request, client: str, status: int) -> None:
        """Keep in the audit log what changed something, and what was refused."""
        told = getattr(request.state, "audit", None)
        if told is None:
            if status == 429 and not request.state.often:
                return
            if request.method in SAFE and status not in (403, 421, 429):
                return
            if status == 401:  # nobody, with nothing: the page of the login is the answer
                return
        self._access.audit.add(event_of(request, client, status or 500, told or {}))


def same_site(request: Request, url: str = "") -> bool:
    """Return whether a page of ours sent the request, or no page at all, as browsers tell.

    `url` is where browsers reach the dashboard if a proxy before it asks by another name.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    # The scheme is not compared: behind a proxy that ends TLS ours is another than the browser's.
    return origin is None or urlsplit(origin).netloc in (
        request.headers.get("host"),
        urlsplit(url).netloc or None,
    )


def host_of(request: Request) -> str:
    """Return the host that was asked for, as it was sent: empty where that is none."""
    match = _HOST.fullmatch(request.headers.get("host", ""))
    return match[1] if match else ""


def _asked(request: Request) -> str:
    path = request.scope.get("raw_path") or request.scope["path"].encode()
    query = request.scope.get("query_string") or b""
    return (path + (b"?" + query if query else b"")).decode("latin-1")


def _too_large(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return not (length.isascii() and length.isdigit() and int(length[:12]) <= MOST_BYTES)


def _bounded(receive: Receive) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MOST_BYTES:
            raise HTTPException(413, f"a request may have {MOST_BYTES:,} bytes at most")
        return message

    return bounded


def _refusal(
    request: Request, code: int, text: str, headers: dict[str, Any] | None = None
) -> Response:
    if request.scope["path"].startswith(API):
        problem = Problem(error=_TITLES[code], detail=text)
        return JSONResponse(problem.model_dump(), code, headers)
    return PlainTextResponse(f"{text}\n", code, headers)


_TITLES = {
    401: "Log in first",
    403: "That is refused",
    413: "That is too much",
    421: "Wrong host",
    429: "Too many requests",
    503: "No answer",
}
