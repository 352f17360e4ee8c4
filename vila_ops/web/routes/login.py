"""Logging in with a token, and out."""

from __future__ import annotations

from hmac import compare_digest
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from vila_ops.web.guard import COOKIE
from vila_ops.web.pages import csrf, page
from vila_ops.web.tokens import SESSION_SECONDS, Tokens

MOST_BYTES = 8192

router = APIRouter()


@router.get("/login")
async def form(request: Request, next: str = "/") -> Response:
    """Show the form."""
    if request.app.state.tokens is None:
        return RedirectResponse("/", 303)
    return page(request, "login.html", next=_local(next), wrong=False)


@router.post("/login")
async def login(request: Request) -> Response:
    """Take a token and begin a session."""
    tokens: Tokens | None = request.app.state.tokens
    if tokens is None:
        raise HTTPException(404)
    given = await _fields(request)
    goal = _local(given.get("next", "/"))
    cookie = tokens.session(given.get("token", "").strip())
    if cookie is None:
        return page(request, "login.html", code=403, next=goal, wrong=True)
    answer = RedirectResponse(goal, 303)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=_behind_tls(request),
    )
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session in this browser."""
    if request.app.state.tokens is None:
        raise HTTPException(404)
    await _fields(request)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


async def _fields(request: Request) -> dict[str, str]:
    """Return a form's fields. Raises 403 unless it was this session's own form that sent them.

    Browsers name the page that sent a form; the hidden field says the same where they don't.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, "the form is too large")
    try:
        parsed = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        raise HTTPException(400, "this is no form") from None
    fields = {name: values[-1] for name, values in parsed.items()}
    site = request.headers.get("sec-fetch-site", "same-origin")
    good = compare_digest(fields.get("csrf", "").encode(), csrf(request).encode())
    if not good or site not in ("same-origin", "none"):
        raise HTTPException(403, "the form is from an older session or another page: load it again")
    return fields


def _local(goal: str) -> str:
    """Return a path of this server; an address elsewhere leads to the first page."""
    local = goal.startswith("/") and not goal.startswith("//") and goal.isprintable()
    return goal if local and "\\" not in goal else "/"


def _behind_tls(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
