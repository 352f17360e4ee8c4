"""The application: chat, models, health and figures."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from vila_core import __version__
from vila_ops.serving.access import Access
from vila_ops.serving.chat import Chat
from vila_ops.serving.figures import gauge
from vila_ops.serving.holder import Holder
from vila_ops.serving.pictures import Fetch
from vila_ops.serving.problem import ApiError
from vila_ops.web.tokens import Tokens

log = logging.getLogger("vila.serve")


def create_app(holder: Holder, fetch: Fetch, tokens: Tokens | None = None) -> Starlette:
    """Make the server of a model. Without `tokens` it answers this machine alone, and all."""
    chat = Chat(holder, fetch)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        chat.close()

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/healthz", healthz),
            Route("/livez", livez),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(Access, tokens=tokens)],
        exception_handlers={HTTPException: _refused, ApiError: _told, Exception: _broken},
        lifespan=lifespan,
    )
    app.state.holder = holder
    return app


async def models(request: Request) -> Response:
    """List the model, once it is loaded."""
    return JSONResponse({"object": "list", "data": _models(request.app.state.holder)})


async def model(request: Request) -> Response:
    """Return the model by any of its names."""
    holder: Holder = request.app.state.holder
    name = request.path_params["name"]
    found = _models(holder)
    if not found or name not in holder.names():
        shown = ascii(name[:100])
        message = f"The model {shown} does not exist; this server has: {', '.join(holder.names())}"
        raise ApiError(404, message, param="model", code="model_not_found")
    return JSONResponse(found[0])


async def healthz(request: Request) -> Response:
    """Tell whether the model answers: 503 while it is loaded, and at the end."""
    holder: Holder = request.app.state.holder
    current = holder.current
    if holder.stopping:
        return JSONResponse({"status": "shutting down"}, 503)
    if current is None:
        return JSONResponse({"status": "loading"}, 503)
    if not current.engine.alive:
        return JSONResponse({"status": "the engine has stopped"}, 503)
    return JSONResponse({"status": "ok"})


async def livez(request: Request) -> Response:
    """Tell that the process serves, or that only a new one would."""
    current = request.app.state.holder.current
    dead = current is not None and not current.engine.alive
    if dead and not request.app.state.holder.stopping:
        return PlainTextResponse("the engine has stopped\n", 503)
    return PlainTextResponse("ok\n")


async def metrics(request: Request) -> Response:
    """Return all figures, in Prometheus' text format."""
    holder: Holder = request.app.state.holder
    current = holder.current
    lines = [gauge("build_info", "The version.", 1, {"version": __version__})]
    lines.append(gauge("ready", "Whether the model is loaded.", float(current is not None)))
    if current is not None:
        labels = {"model": holder.id, "version": current.origin, "sha256": current.sha256 or ""}
        lines += [
            gauge("model_info", "The model in memory.", 1, labels),
            gauge("loaded_timestamp_seconds", "Since when it is loaded.", current.at),
            gauge("stale", "Whether its name means another by now.", float(holder.is_stale)),
            gauge("queue_length", "Requests that wait.", current.engine.waiting),
            gauge("running", "Answers under way.", current.engine.running),
        ]
    text = "".join([*lines, *holder.figures.lines()])
    return PlainTextResponse(
        text.encode("utf-8", "replace"), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _models(holder: Holder) -> list[dict[str, Any]]:
    current = holder.current
    if current is None:
        return []
    return [
        {
            "id": holder.id,
            "object": "model",
            "created": int(current.at),
            "owned_by": "vila",
            "root": holder.id if holder.is_folder else current.origin,
            "sha256": current.sha256,
            "max_model_len": current.served.positions,
            "names": holder.names(),
            "meant_now": holder.id if holder.is_folder else holder.meant,
            "stale": holder.is_stale,
        }
    ]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: "Unknown path; this server has POST /v1/chat/completions and GET /v1/models",
        405: f"{request.method} is not for this path",
    }.get(error.status_code, str(error.detail))
    told = ApiError(error.status_code, message)
    return JSONResponse(told.body, told.status, {**(error.headers or {})})


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    told = ApiError(500, f"the server failed: {type(error).__name__}; its log has the details")
    return JSONResponse(told.body, 500)
