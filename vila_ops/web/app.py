"""The application: what is shared by the pages, and what happens when something goes wrong."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from vila_core import __version__
from vila_core.errors import NotFound, StoreError, UserError
from vila_core.store import Store
from vila_ops.samples import Samples
from vila_ops.web.access import Access
from vila_ops.web.api import Problem
from vila_ops.web.guard import Guard
from vila_ops.web.pages import page
from vila_ops.web.routes import health, lineage, login, metrics, run, runs, samples
from vila_ops.web.tokens import Tokens
from vila_ops.web.watch import Watch

API = "/api/v1"
HERE = Path(__file__).parent

log = logging.getLogger("vila.dashboard")


def create_app(store: Store, tokens: Tokens | None = None) -> FastAPI:
    """Make the dashboard of a store. Without `tokens` it answers this machine alone, and all."""
    watch, access = Watch(store), Access(tokens)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch.start()
        yield
        watch.close()

    app = FastAPI(
        title="VILA dashboard",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
        lifespan=lifespan,
    )
    app.state.watch = watch
    app.state.access = access
    app.state.samples = Samples(store)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for routes in (runs, run, login, health, metrics, samples, lineage):
        app.include_router(routes.router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(UserError, _not_found)
    app.add_exception_handler(StoreError, _no_store)
    app.add_middleware(Guard, access=access, broken=_broken)
    return app


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _message(request, 404, "There is no such page", "")
    return _message(request, error.status_code, "That can't be answered", str(error.detail))


def _not_found(request: Request, error: Exception) -> Response:
    return _message(request, 404, "There is no such run", str(error))


def _no_store(request: Request, error: Exception) -> Response:
    text = "The page is there again when the store is: reload it."
    return _message(request, 503, "The store can't be reached", f"{error}\n{text}")


def _broken(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    text = f"{type(error).__name__}: the dashboard's log has the details."
    return _message(request, 500, "This page can't be made", text)


def _message(request: Request, code: int, title: str, text: str) -> Response:
    if request.url.path.startswith(f"{API}/"):
        return JSONResponse(Problem(error=title, detail=text).model_dump(), code)
    return page(request, "message.html", code=code, title=title, text=text)
