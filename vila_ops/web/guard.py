"""Between the network and the pages: who may pass, and headers that every answer carries."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.registry.users import user_name
from vila_ops.web.roles import Role, Viewer
from vila_ops.web.tokens import Tokens

COOKIE = "vila_session"
OPEN = ("/healthz", "/livez", "/login")
STATIC = "/static/"

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
        tokens: Tokens | None,
        broken: Callable[[Request, Exception], Response],
    ) -> None:
        """Guard an application; `broken` makes the answer where it failed."""
        self._app = app
        self._tokens = tokens
        self._broken = broken
        self._owner = Viewer(user_name(), Role.admin)  # who reaches a loopback address

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
        if self._tokens is None:
            if not is_loopback(request.url.hostname or ""):
                text = "without tokens only this machine is answered: open http://127.0.0.1 instead"
                return PlainTextResponse(f"{text}\n", 421)
            state["viewer"] = self._owner
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
        assert self._tokens is not None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            name = self._tokens.name_of(token.strip())
        else:
            name = self._tokens.name_of_session(request.cookies.get(COOKIE, ""))
        return None if name is None else Viewer(name, Role.viewer)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
