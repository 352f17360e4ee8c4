"""Who may ask: bearers of a token; without tokens, this machine alone."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vila_ops.serving.problem import ApiError
from vila_ops.web.access import is_loopback
from vila_ops.web.guard import host_of
from vila_ops.web.tokens import Tokens

OPEN = ("/healthz", "/livez")
"""For probes, which have no token."""


class Access:
    """ASGI middleware: sets `state.asker`, the name that the queue knows the sender by."""

    def __init__(self, app: ASGIApp, tokens: Tokens | None) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", []).append((b"x-content-type-options", b"nosniff"))
            await send(message)

        request = Request(scope)
        try:
            scope.setdefault("state", {})["asker"] = self._asker(request)
        except ApiError as error:
            answer = JSONResponse(error.body, error.status, error.headers)
            await answer(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _asker(self, request: Request) -> str:
        if self._tokens is None:
            # A page in a browser on this machine could send another host's name here.
            if not is_loopback(host_of(request)):
                raise ApiError(
                    421,
                    "without tokens this server answers only requests to this machine's own "
                    "address (http://127.0.0.1); start it with --tokens FILE",
                    code="misdirected_request",
                )
            return request.client.host if request.client else ""
        if request.url.path in OPEN:
            return ""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = self._tokens.of(token.strip()) if scheme.lower() == "bearer" else None
        if known is None:
            raise ApiError(
                401,
                "a token of this server is needed: Authorization: Bearer TOKEN",
                code="invalid_api_key",
            )
        return known.viewer.name
