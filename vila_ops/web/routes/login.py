"""Logging in with a token or at an OpenID provider, and out."""

from __future__ import annotations

import secrets
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from vila_ops.web.access import COOKIE, VISIT, Access
from vila_ops.web.audit import note
from vila_ops.web.forms import read_form
from vila_ops.web.oidc import LOGIN_SECONDS, LoginRefused, ProviderDown
from vila_ops.web.pages import page
from vila_ops.web.sessions import HOURS, behind_tls, cookie_name

PENDING = "vila_oidc"
"""The cookie of a browser that is at the provider."""

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def form(request: Request, next: str = "/") -> Response:
    """Show the form. Its hidden field is good in this browser alone."""
    if not _access(request).guarded:
        return RedirectResponse("/", 303)
    return _form(request, _local(next))


@router.post("/login")
async def login(request: Request) -> Response:
    """Take a token and begin a session."""
    access = _access(request)
    if access.tokens is None:
        raise HTTPException(404)
    note(request, "log in", via="token")
    given = await read_form(request)
    goal = _local(given.get("next", "/"))
    token = access.tokens.of(given.get("token", "").strip())
    if token is None:
        text = "This token is not known here. It may have been withdrawn."
        return _form(request, goal, text, 403)
    note(request, "log in", who=token.viewer.name, via="token", role=token.viewer.role.name)
    answer = RedirectResponse(goal, 303)
    cookie = access.sessions.begin(token.viewer.name, "token", token.mark)
    _set(request, answer, COOKIE, cookie, HOURS * 3600)
    _forget(request, answer, VISIT)
    return answer


@router.get("/login/oidc")
def to_provider(request: Request, next: str = "/") -> Response:
    """Send the browser to the provider, with a cookie that ties its answer to this browser."""
    access = _access(request)
    if access.oidc is None:
        raise HTTPException(404)
    try:
        address, cookie = access.oidc.begin(access.sessions, _local(next))
    except ProviderDown as error:
        return _down(request, _local(next), error)
    answer = RedirectResponse(address, 303)
    _set(request, answer, PENDING, cookie, LOGIN_SECONDS, "lax")
    return answer


@router.get("/login/callback")
def from_provider(request: Request) -> Response:
    """Take the provider's answer and begin a session."""
    access = _access(request)
    if access.oidc is None:
        raise HTTPException(404)
    note(request, "log in", via="oidc", provider=access.oidc.config.issuer)
    pending = request.cookies.get(cookie_name(request, PENDING), "")
    try:
        found = access.oidc.finish(access.sessions, pending, dict(request.query_params))
    except LoginRefused as error:
        note(request, "log in", via="oidc", provider=access.oidc.config.issuer, why=error)
        answer = _form(request, "/", f"Nobody was logged in: {error}.", 403)
    except ProviderDown as error:
        answer = _down(request, "/", error)
    else:
        about = {"provider": access.oidc.config.issuer, "role": found.role.name}
        note(request, "log in", who=found.name, via="oidc", **about)
        answer = RedirectResponse(_local(found.goal), 303)
        hours = access.oidc.config.session_hours
        cookie = access.sessions.begin(found.name, "oidc", found.role.name, hours)
        # Lax: this answer belongs to a way that began at the provider, Strict would not be sent.
        _set(request, answer, COOKIE, cookie, hours * 3600, "lax")
        _forget(request, answer, VISIT)
    _forget(request, answer, PENDING)
    return answer


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session: this cookie is good nowhere any more."""
    access = _access(request)
    if not access.guarded:
        raise HTTPException(404)
    note(request, "log out")
    await read_form(request)
    session = access.session(request)
    if session is not None:
        await access.revoked.add(session)
    goal = ""
    if session is not None and session.via == "oidc" and access.oidc is not None:
        goal = await run_in_threadpool(access.oidc.logout_url)
    answer: Response = RedirectResponse("/login", 303)
    if goal and access.oidc is not None:
        # Not a redirect: the content security policy keeps forms from leading elsewhere.
        request.state.viewer = None
        answer = page(request, "logged_out.html", goal=goal, provider=access.oidc.config.shown)
    _forget(request, answer, COOKIE)
    return answer


def _down(request: Request, goal: str, error: ProviderDown) -> Response:
    text = f"The login provider can't be used now: {error}. Try again in a while."
    return _form(request, goal, text, 503)


def _form(request: Request, goal: str, problem: str = "", code: int = 200) -> Response:
    access = _access(request)
    visit = request.cookies.get(cookie_name(request, VISIT), "")
    request.state.visit = visit = visit or secrets.token_hex(16)
    provider = access.oidc.config.shown if access.oidc else ""
    by_token = access.tokens is not None
    shown = {"next": goal, "problem": problem, "provider": provider, "by_token": by_token}
    answer = page(request, "login.html", code=code, **shown)
    _set(request, answer, VISIT, visit, None)
    return answer


def _set(
    request: Request,
    answer: Response,
    name: str,
    value: str,
    seconds: float | None,
    site: Literal["lax", "strict"] = "strict",
) -> None:
    answer.set_cookie(
        cookie_name(request, name),
        value,
        max_age=None if seconds is None else round(seconds),
        httponly=True,
        samesite=site,
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
    return goal if local and "\\" not in goal and len(goal) <= 2000 else "/"
