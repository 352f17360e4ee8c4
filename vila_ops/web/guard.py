"""Between the network and the pages: who may pass, and headers that every answer carries."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vila_ops.web.access import Access
from vila_ops.web.roles import Viewer

OPEN = ("/healthz", "/livez", "/login")
STATIC = "/static/"
SAFE = ("GET", "HEAD", "OPTIONS")

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


class Guard:
    """ASGI middleware. Without tokens it answers only requests that name this machine."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        broken: Callable[[Request, Exception], Response],
    ) -> None:
        """Guard an application; `broken` makes the answer where it failed."""
        self._app = app
        self._access = access
        self._broken = broken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on with `request.state.viewer` set."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        request, begun = Request(scope), False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                if request.url.path.startswith(STATIC):
                    headers.setdefault("Cache-Control", "no-cache")
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refuse(request, scope.setdefault("state", {}))
        try:
            await (refused or self._app)(scope, receive, with_headers)
        except Exception as error:
            if begun:
                raise
            await self._broken(request, error)(scope, receive, with_headers)

    def _refuse(self, request: Request, state: MutableMapping[str, Any]) -> Response | None:
        path = request.url.path
        if request.method not in SAFE and not same_site(request):
            return PlainTextResponse("the page of another site sent this\n", 403)
        if not self._access.guarded:
            if not is_loopback(request.url.hostname or ""):
                text = "without tokens only this machine is answered: open http://127.0.0.1 instead"
                return PlainTextResponse(f"{text}\n", 421)
            state["viewer"] = self._access.owner
            return None
        state["viewer"] = viewer = self._viewer(request)
        if viewer is not None or path in OPEN or path.startswith(STATIC):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"/login?next={quote(path + query, safe='')}", 303)
        headers = {"WWW-Authenticate": "Bearer"}
        return PlainTextResponse("a token is needed: Authorization: Bearer TOKEN\n", 401, headers)

    def _viewer(self, request: Request) -> Viewer | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._access.of_bearer(token.strip())
        return self._access.of_session(request)


def same_site(request: Request) -> bool:
    """Return whether a page of ours sent the request, or no page at all, as browsers tell."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    # The scheme is not compared: behind a proxy that ends TLS ours is another than the browser's.
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
