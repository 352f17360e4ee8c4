"""What pages ask to stay live: whether anything that they show has changed.

A short answer with an ETag, asked every few seconds while a page is seen: it passes every proxy,
survives a laptop's sleep, holds no connection, and costs the store nothing per viewer in a bucket.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from vila_core.jsonio import digest
from vila_ops.web.api.problem import ERRORS
from vila_ops.web.loading import records_of
from vila_ops.web.watch import Watch

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["live"])


class Changes(BaseModel):
    """Versions of what pages show: each is the same while that looks the same."""

    runs: str
    """Of the list of runs; empty before the first listing."""
    run: str
    """Of the run that was named; empty where none was."""
    trouble: str
    """Why the store can't be listed now; empty when it can."""


@router.get("/changes", response_model=Changes, responses={304: {"description": "Nothing new"}})
def changes(
    request: Request,
    response: Response,
    run: Annotated[str, Query(max_length=200)] = "",
) -> Changes | Response:
    """Return versions of the list of runs and of a run; 304 while the ETag is the same."""
    watch: Watch = request.app.state.watch
    found = Changes(
        runs=watch.snapshot.version if watch.snapshot else "",
        run=records_of(request).load(run).version if run else "",
        trouble=watch.trouble,
    )
    shown = [found.run, found.trouble] if run else [found.runs, found.trouble]
    tag = f'"{digest(shown)[:32]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    response.headers["ETag"] = tag
    return found
