"""Logging in with a token, and out."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from vila_ops.web.access import COOKIE, VISIT, Access
from vila_ops.web.forms import read_form
from vila_ops.web.pages import page
from vila_ops.web.sessions import HOURS, behind_tls, cookie_name

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def form(request: Request, next: str = "/") -> Response:
    """Show the form. Its hidden field is good in this browser alone."""
    if not _access(request).guarded:
        return RedirectResponse("/", 303)
    return _form(request, _local(next), wrong=False)


@router.post("/login")
async def login(request: Request) -> Response:
    """Take a token and begin a session."""
    access = _access(request)
    if access.tokens is None:
        raise HTTPException(404)
    given = await read_form(request)
    goal = _local(given.get("next", "/"))
    token = access.tokens.of(given.get("token", "").strip())
    if token is None:
        return _form(request, goal, wrong=True)
    answer = RedirectResponse(goal, 303)
    cookie = access.sessions.begin(token.viewer.name, "token", token.mark)
    _set(request, answer, COOKIE, cookie, round(HOURS * 3600))
    _forget(request, answer, VISIT)
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session in this browser."""
    if not _access(request).guarded:
        raise HTTPException(404)
    await read_form(request)
    answer = RedirectResponse("/login", 303)
    _forget(request, answer, COOKIE)
    return answer


def _form(request: Request, goal: str, *, wrong: bool) -> Response:
    visit = request.cookies.get(cookie_name(request, VISIT), "")
    request.state.visit = visit = visit or secrets.token_hex(16)
    answer = page(request, "login.html", code=403 if wrong else 200, next=goal, wrong=wrong)
    _set(request, answer, VISIT, visit, None)
    return answer


def _set(request: Request, answer: Response, name: str, value: str, seconds: int | None) -> None:
    answer.set_cookie(
        cookie_name(request, name),
        value,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=behind_tls(request),
    )


def _forget(request: Request, answer: Response, name: str) -> None:
    answer.delete_cookie(
        cookie_name(request, name), httponly=True, samesite="strict", secure=behind_tls(request)
    )


def _access(request: Request) -> Access:
    return request.app.state.access


def _local(goal: str) -> str:
    """Return a path of this server; an address elsewhere leads to the first page."""
    local = goal.startswith("/") and not goal.startswith("//") and goal.isprintable()
    return goal if local and "\\" not in goal else "/"
