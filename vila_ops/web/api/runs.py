"""The runs, as JSON: the same question and answer as the page's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from vila_ops.run_index import RunRow
from vila_ops.web.api.problem import ERRORS
from vila_ops.web.query import MOST_TEXT, Asked, answer, conditions, is_metric, natural_order
from vila_ops.web.query import SORTS as SORTS
from vila_ops.web.watch import Snapshot, Watch

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["runs"])

Status = Literal["running", "succeeded", "failed", "stopped", "interrupted"]


class RunItem(BaseModel):
    """A run in the list."""

    run_id: str
    name: str
    recipe: str
    runner: str
    status: Status
    started_at: str
    duration_s: float | None
    code_digest: str
    data_versions: dict[str, str]
    """Digest of each dataset that a task wrote, by task."""
    tasks: int
    tasks_done: int
    metrics: dict[str, float]
    error: str | None


class RunsPage(BaseModel):
    """Runs that fit the question, one page of them."""

    runs: list[RunItem]
    found: int
    total: int
    page: int
    pages: int
    read_at: datetime
    """When the store was listed."""
    trouble: str
    """Why the store can't be listed now; empty when it can."""
    unreadable: dict[str, str]
    """Records that can't be read, with the reason."""


def snapshot_of(request: Request) -> Snapshot:
    """Return the runs as listed last. Raises 503 before the first listing."""
    watch: Watch = request.app.state.watch
    if watch.snapshot is None:
        reason = watch.trouble or "the runs are being listed for the first time; ask again"
        raise HTTPException(503, reason)
    return watch.snapshot


@router.get("/runs")
def list_runs(
    request: Request,
    q: Annotated[str, Query(max_length=MOST_TEXT)] = "",
    status: Annotated[list[Status] | None, Query()] = None,
    sort: Annotated[str, Query(max_length=200)] = "started",
    order: Literal["up", "down"] | None = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    rows: Annotated[int, Query(ge=1, le=500)] = 50,
) -> RunsPage:
    """List runs. `q` holds words, `field:value` and conditions such as `task/metric@0>0.8`."""
    seen = snapshot_of(request)
    watch: Watch = request.app.state.watch
    if not (sort in SORTS or is_metric(sort)):
        raise HTTPException(422, f"sort={sort!r}: use one of {', '.join(SORTS)}, or a metric")
    _, unclear = conditions(q)
    if unclear:
        raise HTTPException(422, f"q: can't be understood: {' '.join(unclear)}")
    chosen = Asked(q, tuple(status or ()), sort, order or natural_order(sort), page=page)
    found = answer(seen.listing.rows, chosen, page_rows=rows)
    return RunsPage(
        runs=[item(row) for row in found.rows],
        found=found.found,
        total=len(seen.listing.rows),
        page=found.page,
        pages=found.pages,
        read_at=seen.at,
        trouble=watch.trouble,
        unreadable=dict(seen.listing.unreadable),
    )


def item(row: RunRow) -> RunItem:
    """Return a run as the list tells it."""
    return RunItem(
        run_id=row.run_id,
        name=row.name,
        recipe=row.recipe,
        runner=row.runner,
        status=row.status,  # type: ignore[arg-type]
        started_at=row.started_at,
        duration_s=row.duration_s,
        code_digest=row.code_digest,
        data_versions=dict(row.data),
        tasks=len(row.tasks),
        tasks_done=row.done,
        metrics=dict(row.metrics),
        error=row.error or None,
    )
