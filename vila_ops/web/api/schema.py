"""The OpenAPI schema at `/api/v1/openapi.json`: what FastAPI knows, and how one is let in."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

_ABOUT = """\
What the dashboard's pages are made of, for programs.

Send a token (`vila dashboard token`) as `Authorization: Bearer TOKEN`. Pages of the dashboard use
the session's cookie; what changes something needs the header `X-CSRF-Token` then, with the content
of the page's `<meta name="csrf">`. On a loopback address without tokens neither is needed.
Times are UTC; numbers that are none (NaN, infinity) are null. Every error is a `Problem`.
"""
_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of the dashboard."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "vila_session",
        "description": "A browser's session; behind TLS its name is `__Host-vila_session`.",
    },
}


_OF_WRITING = ("409", "413", "415")


def describe(app: FastAPI) -> None:
    """Have the application describe itself."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=_ABOUT, routes=app.routes
            )
            made.setdefault("components", {})["securitySchemes"] = _SCHEMES
            for path in made["paths"].values():
                for code in _OF_WRITING:
                    path.get("get", {}).get("responses", {}).pop(code, None)
            made["security"] = [{name: []} for name in _SCHEMES]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi


def operation(route: APIRoute) -> str:
    """Return a name that clients in other languages can use, for FastAPI to call operations by.

    Functions of several modules share names; paths don't.
    """
    path = route.path_format.removeprefix("/api/v1/").replace("{", "").replace("}", "")
    words = "".join(letter if letter.isalnum() else "_" for letter in path)
    return f"{min(route.methods or {'GET'}).lower()}_{words}"
