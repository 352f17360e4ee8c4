"""The state of a page of comparing: all of it in the URL, so that a link shows the same again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from vila_ops.comparing.disagreements import Who
from vila_ops.comparing.overlay import Bands
from vila_ops.curves import Axis

MOST_TEXT = 200
EVERY = "*"
"""As a metric: all there are."""


@dataclass(frozen=True)
class State:
    """What is asked for. A value in the URL that means nothing is as if it were not there."""

    run: tuple[str, ...] = ()
    ref: str = ""
    settings: Literal["different", "all"] = "different"
    rows: Literal["different", "all"] = "all"
    task: str = ""
    metric: tuple[str, ...] = ()
    axis: Axis = "step"
    smooth: float = 0.0
    log: bool = False
    bands: Bands = "off"
    benchmark: str = ""
    other: str = ""
    who: Who = "either"
    page: int = 1

    @classmethod
    def of(cls, given: QueryParams) -> State:
        """Read a query."""
        number = given.get("page", "1")
        return cls(
            run=_texts(given.getlist("run"), 40),
            ref=given.get("ref", "")[:MOST_TEXT],
            settings=_one(given.get("settings"), "different", ("all",)),
            rows=_one(given.get("rows"), "all", ("different",)),
            task=given.get("task", "")[:MOST_TEXT],
            metric=_texts(given.getlist("metric"), 512),
            axis=_one(given.get("axis"), "step", get_args(Axis)),
            smooth=_share(given.get("smooth", "")),
            log=given.get("log") in ("1", "true", "on"),
            bands=_one(given.get("bands"), "off", get_args(Bands)),
            benchmark=given.get("benchmark", "")[:MOST_TEXT],
            other=given.get("other", "")[:MOST_TEXT],
            who=_one(given.get("who"), "either", get_args(Who)),
            page=int(number)
            if number.isascii() and number.isdigit() and 0 < len(number) < 7 and int(number)
            else 1,
        )

    def pairs(self, **changes: Any) -> list[tuple[str, str]]:
        """Return names and values of the query with some changed; what is usual is left out."""
        state = replace(self, **changes)
        found: list[tuple[str, str]] = []
        for field in fields(state):
            value = getattr(state, field.name)
            if value == field.default:
                continue
            for each in value if isinstance(value, tuple) else (value,):
                found.append((field.name, _text(each)))
        return found

    def query(self, **changes: Any) -> str:
        """Return the query of a link with some values changed."""
        return "?" + urlencode(self.pairs(**changes), safe=":/@*")

    def hidden(self, *leave: str) -> list[tuple[str, str]]:
        """Return what a form keeps: all but the fields that it has itself, and the page."""
        return [(name, value) for name, value in self.pairs() if name not in (*leave, "page")]


def query_of(values: Mapping[str, Sequence[str] | str]) -> str:
    """Return a query in the spelling of `State.query`."""
    return "?" + urlencode(values, doseq=True, safe=":/@*")


def _one(value: str | None, usual: Any, others: Sequence[str]) -> Any:
    return value if value in others else usual


def _texts(values: Sequence[str], most: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value[:MOST_TEXT] for value in values[:most] if value.strip()))


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return round(found, 3) if 0 <= found <= 0.999 else 0.0


def _text(value: object) -> str:
    if value is True:
        return "1"
    return f"{value:g}" if isinstance(value, float) else str(value)
