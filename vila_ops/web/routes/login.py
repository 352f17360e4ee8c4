"""Logging in with a token, and out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from vila_ops.web.forms import read_form
from vila_ops.web.guard import COOKIE
from vila_ops.web.pages import page
from vila_ops.web.tokens import SESSION_SECONDS, Tokens

router = APIRouter(include_in_schema=False)


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
    given = await read_form(request)
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
    await read_form(request)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _local(goal: str) -> str:
    """Return a path of this server; an address elsewhere leads to the first page."""
    local = goal.startswith("/") and not goal.startswith("//") and goal.isprintable()
    return goal if local and "\\" not in goal else "/"


def _behind_tls(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
