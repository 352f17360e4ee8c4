"""The list of runs: filtered, sorted, grouped and cut into pages by the URL alone."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from vila_ops.run_index import STATUSES
from vila_ops.web.pages import page
from vila_ops.web.query import (
    GROUPS,
    NO_COLUMNS,
    Asked,
    answer,
    natural_order,
    parse,
    usual_columns,
)
from vila_ops.web.watch import Watch

MOST_NAMES = 500
"""Metrics that are offered as columns."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Column:
    """A column of the table: what it is sorted by, its title, and whether numbers stand in it."""

    key: str
    title: str
    numbers: bool = False
    metric: bool = False


COLUMNS = (
    Column("run", "run"),
    Column("status", "status"),
    Column("recipe", "recipe"),
    Column("data", "data"),
    Column("code", "code"),
    Column("started", "started"),
    Column("time", "time", numbers=True),
    Column("tasks", "tasks", numbers=True),
)


@router.get("/")
def runs(request: Request) -> Response:
    """Show the runs. A value in the URL that means nothing is as if it were not there."""
    watch: Watch = request.app.state.watch
    seen = watch.snapshot
    if seen is None:
        return page(
            request,
            "waiting.html",
            code=503 if watch.trouble else 200,
            trouble=watch.trouble,
            said=watch.said,
        )
    params = request.query_params
    asked = parse({name: params.getlist(name) for name in params})
    metrics = asked.cols or usual_columns(seen.metric_names)
    shown = [name for name in metrics if name != NO_COLUMNS]
    found = answer(seen.listing.rows, asked, metrics=shown)
    return page(
        request,
        "runs.html",
        found=found,
        total=len(seen.listing.rows),
        statuses=STATUSES,
        groups=GROUPS,
        asked=asked,
        link=asked.link() | {"page": "" if found.page == 1 else found.page},
        columns=[*COLUMNS, *(Column(name, name, numbers=True, metric=True) for name in shown)],
        shown=shown,
        without={
            name: [other for other in shown if other != name] or [NO_COLUMNS] for name in shown
        },
        names=_offered(seen.metric_names, shown),
        next_order={column.key: _next(asked, column.key) for column in COLUMNS}
        | {name: _next(asked, name) for name in shown},
        seen=seen,
        trouble=watch.trouble,
        unreadable=seen.listing.unreadable,
    )


def _offered(names: tuple[str, ...], shown: list[str]) -> list[str]:
    """Return the metrics that can be added, those of whole benchmarks first."""
    return sorted(
        (name for name in names if name not in shown),
        key=lambda name: ("." in name.partition("/")[0], name),
    )[:MOST_NAMES]


def _next(asked: Asked, key: str) -> str:
    """Return the order that a click on a column leads to."""
    usual = natural_order(key)
    if asked.sort != key:
        return ""
    return "" if asked.order != usual else "down" if usual == "up" else "up"
