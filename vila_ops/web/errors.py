"""What is answered when something goes wrong: a page, or below `/api/v1` a Problem."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vila_core.errors import Conflict, Damaged, NotFound, StoreError, UserError
from vila_ops.web.api import Problem
from vila_ops.web.pages import page

API = "/api/v1"

log = logging.getLogger("vila.dashboard")


def tell_errors(app: FastAPI) -> None:
    """Have the errors of routes answered."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(UserError, _mistaken)
    app.add_exception_handler(Conflict, _conflict)
    app.add_exception_handler(Damaged, _damaged)
    app.add_exception_handler(StoreError, _no_store)


def broken(request: Request, error: Exception) -> Response:
    """Return the answer where a fault of ours is met; its details are in the log alone."""
    log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    text = f"{type(error).__name__}: the dashboard's log has the details."
    return message(request, 500, "This page can't be made", text)


def message(
    request: Request, code: int, title: str, text: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a page with a title and a text, or the same as a Problem."""
    if request.scope["path"].startswith(f"{API}/"):
        return JSONResponse(Problem(error=title, detail=text).model_dump(), code, headers)
    answer = page(request, "message.html", code=code, title=title, text=text)
    answer.headers.update(headers or {})
    return answer


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "" if error.detail == "Not Found" else str(error.detail)
    title = "There is no such page" if error.status_code == 404 else "That can't be answered"
    headers = dict(error.headers) if error.headers else None
    return message(request, error.status_code, title, text, headers)


def _unfit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()
    ]
    return message(request, 422, "A value is not valid", "\n".join(told))


def _not_found(request: Request, error: Exception) -> Response:
    return message(request, 404, "There is no such thing", str(error))


def _mistaken(request: Request, error: Exception) -> Response:
    """Where something is only looked at, the mistake is its name."""
    if request.method in ("GET", "HEAD"):
        return _not_found(request, error)
    return message(request, 422, "That can't be done", str(error))


def _conflict(request: Request, error: Exception) -> Response:
    return message(request, 409, "Somebody else was first", str(error))


def _damaged(request: Request, error: Exception) -> Response:
    return message(request, 503, "What is stored is damaged", str(error))


def _no_store(request: Request, error: Exception) -> Response:
    text = "The page is there again when the store is: reload it."
    return message(request, 503, "The store can't be reached", f"{error}\n{text}")
