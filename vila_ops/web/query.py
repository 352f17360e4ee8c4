"""The question that the list of runs answers: all of it is in the URL, so a link is a saved view.

    q=quick status:failed data:a228 miniature_vqa/accuracy@0>0.8 time<600

Words are looked for in id, recipe and error; `field:value` in one field; a condition compares a
metric, or the time in seconds, with a number.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any, Literal

from vila_ops.run_index import STATUSES, RunRow

PAGE_ROWS = 50
PAGE_GROUPS = 20
GROUP_ROWS = 10
MOST_COLUMNS = 12
MOST_TEXT = 400
NO_COLUMNS = "none"

Order = Literal["up", "down"]

FIELDS: dict[str, Callable[[RunRow], Iterable[str]]] = {
    "run": lambda row: (row.run_id,),
    "name": lambda row: (row.name,),
    "recipe": lambda row: (row.recipe,),
    "status": lambda row: (row.status,),
    "runner": lambda row: (row.runner,),
    "code": lambda row: (row.code_digest,),
    "data": lambda row: row.data.values(),
    "error": lambda row: (row.error,),
}
_DIGESTS = ("code", "data")

SORTS: dict[str, Callable[[RunRow], Any]] = {
    "started": lambda row: row.started_at,
    "run": lambda row: row.run_id.casefold(),
    "recipe": lambda row: row.recipe.casefold(),
    "status": lambda row: STATUSES.index(row.status),
    "time": lambda row: -1.0 if row.duration_s is None else row.duration_s,
    "tasks": lambda row: row.done / max(1, len(row.tasks)),
    "data": lambda row: sorted(row.data.values()),
    "code": lambda row: row.code_digest,
}
_RISING = ("run", "recipe", "status", "data", "code")
GROUPS = {"recipe": "recipe", "name": "name"}

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_CONDITION = re.compile(r"(?P<name>[^<>=!]+)(?P<sign>>=|<=|!=|>|<|=)(?P<number>[-+.\deE]+)")


@dataclass(frozen=True)
class Asked:
    """The question; `unclear` are the parts of it that mean nothing."""

    q: str = ""
    status: tuple[str, ...] = ()
    sort: str = "started"
    order: Order = "down"
    group: str = ""
    cols: tuple[str, ...] = ()
    page: int = 1

    def link(self) -> dict[str, Any]:
        """Return what a URL says of it; what is as usual is left out."""
        usual = natural_order(self.sort)
        return {
            "q": self.q,
            "status": list(self.status),
            "sort": "" if self.sort == "started" else self.sort,
            "order": "" if self.order == usual else self.order,
            "group": self.group,
            "cols": list(self.cols),
            "page": "" if self.page == 1 else self.page,
        }


@dataclass(frozen=True)
class Spread:
    """A metric over the runs of a group."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None for a single run."""
    count: int


@dataclass(frozen=True)
class Group:
    """Runs that have something in common, and what they are together."""

    name: str
    rows: tuple[RunRow, ...]
    count: int
    statuses: Mapping[str, int]
    metrics: Mapping[str, Spread]


@dataclass(frozen=True)
class Found:
    """The answer: rows of one page, or groups."""

    rows: tuple[RunRow, ...]
    groups: tuple[Group, ...]
    found: int
    pages: int
    page: int
    counts: Mapping[str, int]
    """Runs by status, whatever status is asked for."""
    unclear: tuple[str, ...]


def natural_order(sort: str) -> Order:
    """Return the order in which a column is most often wanted first."""
    return "up" if sort in _RISING else "down"


def parse(given: Mapping[str, Sequence[str]]) -> Asked:
    """Return what a URL asks. A value that means nothing is as if it were not there."""

    def one(name: str) -> str:
        return (given.get(name) or [""])[-1].strip()[:MOST_TEXT]

    sort = one("sort")
    sort = sort if sort and (sort in SORTS or is_metric(sort)) else "started"
    order = one("order")
    number = one("page")
    cols = [name[:200] for name in given.get("cols", ()) if name.strip()]
    return Asked(
        q=one("q"),
        status=tuple(status for status in STATUSES if status in given.get("status", ())),
        sort=sort,
        order="up" if order == "up" else "down" if order == "down" else natural_order(sort),
        group=one("group") if one("group") in GROUPS else "",
        cols=tuple(dict.fromkeys(cols))[:MOST_COLUMNS],
        page=max(1, int(number)) if re.fullmatch(r"[0-9]{1,8}", number) else 1,
    )


def is_metric(name: str) -> bool:
    """Return whether a name is that of a metric: `task/metric@shots`."""
    return "/" in name


def answer(
    rows: Sequence[RunRow],
    asked: Asked,
    *,
    page_rows: int = PAGE_ROWS,
    metrics: Sequence[str] = (),
) -> Found:
    """Return the runs that are asked for; of groups, how `metrics` spread over their runs."""
    wanted, unclear = conditions(asked.q)
    meant = [row for row in rows if all(fits(row) for fits in wanted)]
    counts = Counter(row.status for row in meant)
    chosen = [row for row in meant if not asked.status or row.status in asked.status]
    _sort(chosen, asked)
    members: dict[str, list[RunRow]] = {}
    if asked.group:
        for row in chosen:
            members.setdefault(getattr(row, GROUPS[asked.group]), []).append(row)
        size, whole = PAGE_GROUPS, len(members)
    else:
        size, whole = page_rows, len(chosen)
    pages = max(1, -(-whole // size))
    number = min(asked.page, pages)
    cut = slice((number - 1) * size, number * size)
    return Found(
        rows=() if asked.group else tuple(chosen[cut]),
        groups=tuple(_group(*one, metrics) for one in list(members.items())[cut]),
        found=len(chosen),
        pages=pages,
        page=number,
        counts=counts,
        unclear=unclear,
    )


def conditions(text: str) -> tuple[list[Callable[[RunRow], bool]], tuple[str, ...]]:
    """Return what a row must fulfil, and the words that can't be understood."""
    found: list[Callable[[RunRow], bool]] = []
    unclear = []
    for word in text.split():
        field, colon, value = word.partition(":")
        compared = _CONDITION.fullmatch(word)
        if colon and field in FIELDS and value:
            found.append(_holds(field, value.casefold()))
        elif compared and (is_metric(compared["name"]) or compared["name"] == "time"):
            try:
                limit = float(compared["number"])
            except ValueError:
                unclear.append(word)
                continue
            found.append(_compares(compared["name"], _COMPARE[compared["sign"]], limit))
        elif is_metric(word) and re.search(r"[<>=]", word):
            unclear.append(word)
        else:
            found.append(_mentions(word.casefold()))
    return found, tuple(unclear)


def _holds(field: str, value: str) -> Callable[[RunRow], bool]:
    get = FIELDS[field]
    if field in _DIGESTS:
        return lambda row: any(held.startswith(value) for held in get(row))
    return lambda row: any(value in held.casefold() for held in get(row))


def _compares(
    name: str, sign: Callable[[float, float], bool], limit: float
) -> Callable[[RunRow], bool]:
    def fits(row: RunRow) -> bool:
        value = row.duration_s if name == "time" else row.metrics.get(name)
        return value is not None and sign(value, limit)

    return fits


def _mentions(word: str) -> Callable[[RunRow], bool]:
    return lambda row: (
        word in row.run_id.casefold()
        or word in row.recipe.casefold()
        or word in row.error.casefold()
    )


def _sort(rows: list[RunRow], asked: Asked) -> None:
    down = asked.order == "down"
    if asked.sort in SORTS:
        rows.sort(key=SORTS[asked.sort], reverse=down)
        return
    turn = -1.0 if down else 1.0

    def place(row: RunRow) -> tuple[bool, float]:
        value = row.metrics.get(asked.sort)
        return value is None, 0.0 if value is None else turn * value  # without a value: last

    rows.sort(key=place)


def _group(name: str, rows: Sequence[RunRow], metrics: Sequence[str]) -> Group:
    return Group(
        name,
        tuple(rows[:GROUP_ROWS]),
        len(rows),
        Counter(row.status for row in rows),
        spreads(rows, metrics),
    )


def spreads(rows: Sequence[RunRow], metrics: Sequence[str]) -> dict[str, Spread]:
    """Return metrics over the runs that succeeded; without those that none of them has."""
    done = [row.metrics for row in rows if row.status == "succeeded"]
    values = {name: [held[name] for held in done if name in held] for name in metrics}
    return {name: _spread(found) for name, found in values.items() if found}


def _spread(values: Sequence[float]) -> Spread:
    count = len(values)
    mean = fsum(value / count for value in values)
    if count == 1:
        return Spread(mean, None, 1)
    squares = fsum(((value - mean) / sqrt(count - 1)) ** 2 for value in values)
    return Spread(mean, sqrt(squares), count)


def usual_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that are shown where nobody chose: up to three headlines."""
    plain = [name for name in names if "." not in name.partition("/")[0]]
    lead = [name for name in plain if name.endswith("/accuracy@0")]
    visual = [name for name in lead if name.replace("/accuracy@", "/blind_accuracy@") in set(names)]
    rest = [name for name in plain if not re.search(r"/(blind_\w+|chance)@", name)]
    return tuple(dict.fromkeys([*visual[-1:], *lead, *rest]))[:3]
