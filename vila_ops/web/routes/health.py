"""`/healthz` and `/livez`: for those who start, stop and route to the dashboard."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz(request: Request) -> JSONResponse:
    """Tell whether the store answers. Says no more than that: everybody may ask."""
    probe = request.app.state.watch.probe
    if probe.ok:
        return JSONResponse({"status": "ok", "store_latency_s": round(probe.latency_s, 4)})
    return JSONResponse({"status": "the store does not answer"}, 503)


@router.get("/livez")
async def livez() -> PlainTextResponse:
    """Tell that the process serves."""
    return PlainTextResponse("ok\n")
