"""The runs under comparison: found by what was typed, read whole; one that can't be is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from components.runtime.record import RunRecord
from components.runtime.secrets import mask
from vila_core.errors import Unreachable, UserError, VilaError
from vila_core.store import Store
from vila_ops.runs import find_run, find_task
from vila_ops.view import RunView, make_view

MOST_RUNS = 20
PAGE = "/compare"


@dataclass(frozen=True)
class Chosen:
    """A run, or one evaluation of it (`task`), and how it is called on the page: A, B, ..."""

    letter: str
    view: RunView
    task: str
    about: Mapping[str, Any]
    """`environment`, `images` and `pipeline` as recorded, secrets masked."""

    @property
    def name(self) -> str:
        """What names it in links: `RUN` or `RUN:TASK`, by the whole id."""
        return f"{self.view.run_id}:{self.task}" if self.task else self.view.run_id

    @property
    def short(self) -> str:
        """What names it in a legend: the letter, the name and the end of the id."""
        task = f":{self.task}" if self.task else ""
        return f"{self.letter} {self.view.name} {self.view.run_id[-4:]}{task}"

    @property
    def ended(self) -> bool:
        """Whether its record won't change any more, unless it is resumed."""
        return self.view.status != "running"


@dataclass(frozen=True)
class Problem:
    """A run that can't be shown, and why."""

    run: str
    problem: str


def choose(store: Store, texts: Sequence[str]) -> tuple[list[Chosen], list[Problem]]:
    """Read runs as they are named, each once; what can't be read is a problem of its own.

    Raises Unreachable where the store itself can't be reached.
    """
    found: list[Chosen] = []
    problems: list[Problem] = []
    for text in dict.fromkeys(texts):
        try:
            chosen = _open(store, text, letter(len(found)))
        except Unreachable:
            raise
        except VilaError as error:
            problems.append(Problem(text, str(error)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f"the record can't be read: {type(error).__name__}: {error}"
            problems.append(Problem(text, why))
        else:
            if chosen.name not in [one.name for one in found]:
                found.append(chosen)
    if len(found) > MOST_RUNS:
        problems += [
            Problem(one.name, f"left out: at most {MOST_RUNS} runs are compared")
            for one in found[MOST_RUNS:]
        ]
    return found[:MOST_RUNS], problems


def in_order(runs: list[Chosen], ref: str = "", other: str = "") -> list[Chosen]:
    """Return the runs, the reference first and the one that is held against it second.

    Raises UserError for a name that is none of the runs, and fewer than two.
    """
    if len(runs) < 2:
        raise UserError("a second run is needed, to disagree with the first")
    first = _named(runs, ref) or runs[0]
    rest = [one for one in runs if one is not first]
    second = _named(rest, other) or rest[0]
    return [first, second, *(one for one in rest if one is not second)]


def letter(place: int) -> str:
    """Return A for the first, and so on."""
    return chr(ord("A") + place) if place < 26 else f"#{place + 1}"


def permanent_path(chosen: Sequence[Chosen]) -> str:
    """Return the page of a comparison, by whole ids: it means the same runs for ever."""
    return PAGE + "?" + "&".join(f"run={quote(one.name, safe=':')}" for one in chosen)


def _named(runs: list[Chosen], name: str) -> Chosen | None:
    if not name:
        return None
    for one in runs:
        if name in (one.name, one.letter):
            return one
    raise UserError(f"'{name}' is none of the runs: {', '.join(one.name for one in runs)}")


def _open(store: Store, text: str, name: str) -> Chosen:
    run_text, _, task = text.partition(":")
    record = RunRecord.load(store, find_run(store, run_text))
    view = make_view(record)
    if not isinstance(view.config, Mapping):
        raise TypeError("its config is no mapping")
    for value in (view.code_digest, view.recipe, view.runner, view.started_at, view.status):
        if not isinstance(value, str):
            raise TypeError(f"text is needed, found {type(value).__name__}")
    task = find_task(view, task).name if task else ""
    about = {key: record.run.get(key) for key in ("environment", "images", "pipeline")}
    return Chosen(name, view, task, mask(about))
