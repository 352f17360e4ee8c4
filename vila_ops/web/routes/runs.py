"""The list of runs: filtered, sorted and cut into pages by the URL alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from vila_ops.run_index import STATUSES, RunRow
from vila_ops.web.pages import page
from vila_ops.web.watch import Watch

PAGE_ROWS = 50
SORTS: dict[str, Callable[[RunRow], Any]] = {
    "started": lambda row: row.started_at,
    "run": lambda row: row.run_id.casefold(),
    "recipe": lambda row: row.recipe.casefold(),
    "status": lambda row: STATUSES.index(row.status),
    "time": lambda row: -1.0 if row.duration_s is None else row.duration_s,
    "tasks": lambda row: row.done / max(1, len(row.tasks)),
}

router = APIRouter(include_in_schema=False)


@router.get("/")
def runs(request: Request) -> Response:
    """Show the runs. A value in the URL that means nothing is as if it were not there."""
    watch: Watch = request.app.state.watch
    seen = watch.snapshot
    asked = _asked(request)
    if seen is None:
        return page(
            request,
            "waiting.html",
            code=503 if watch.trouble else 200,
            trouble=watch.trouble,
            said=watch.said,
        )
    text = asked["q"].casefold()
    meant = [
        row
        for row in seen.listing.rows
        if not text or any(text in held.casefold() for held in (row.run_id, row.recipe))
    ]
    counts = Counter(row.status for row in meant)
    chosen = [row for row in meant if not asked["status"] or row.status in asked["status"]]
    chosen.sort(key=SORTS[asked["sort"]], reverse=asked["order"] == "down")
    pages = max(1, -(-len(chosen) // PAGE_ROWS))
    number = min(asked["page"], pages)
    return page(
        request,
        "runs.html",
        rows=chosen[(number - 1) * PAGE_ROWS : number * PAGE_ROWS],
        found=len(chosen),
        total=len(seen.listing.rows),
        counts=counts,
        statuses=STATUSES,
        pages=pages,
        asked={**asked, "page": number},
        columns=_COLUMNS,
        seen=seen,
        trouble=watch.trouble,
        unreadable=seen.listing.unreadable,
    )


_COLUMNS = (
    ("run", "run"),
    ("recipe", "recipe"),
    ("status", "status"),
    ("started", "started (UTC)"),
    ("time", "time"),
    ("tasks", "tasks"),
)


def _asked(request: Request) -> dict[str, Any]:
    given = request.query_params
    sort = given.get("sort", "started")
    sort = sort if sort in SORTS else "started"
    natural = "up" if sort in ("run", "recipe", "status") else "down"
    order = given.get("order", natural)
    number = given.get("page", "1")
    return {
        "q": given.get("q", "").strip()[:200],
        "status": [one for one in STATUSES if one in given.getlist("status")],
        "sort": sort,
        "order": order if order in ("up", "down") else natural,
        "page": max(1, int(number))
        if number.isascii() and number.isdigit() and len(number) < 9
        else 1,
    }
