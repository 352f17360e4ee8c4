"""Questions on which evaluations disagree: chosen by scores, read back from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vila_core.errors import UserError
from vila_core.eval.answers import Answers, Key, Questions, shared_places
from vila_core.eval.read_answers import Records
from vila_core.store import Store
from vila_ops.evaluations import Evaluation

Who = Literal["either", "second", "first", "answers", "neither"]
WHO: Mapping[Who, str] = {
    "either": "scores differ",
    "second": "the other is better",
    "first": "the reference is better",
    "answers": "same score, other words",
    "neither": "both score 0",
}
"""Which questions are shown, in words."""
PAGE_ROWS = 20
MOST_TEXT = 4000
"""Longer answers are cut where they are shown."""


@dataclass(frozen=True)
class Answer:
    """What one evaluation answered: None where it was not asked. `draws` are of demonstrations."""

    text: str | None
    score: float | None
    finished: bool = True
    draws: int = 1


@dataclass(frozen=True)
class Disagreement:
    """One question with the answers of all evaluations, in their order.

    `record` is the first evaluation's own record, for `Samples.of_record`; `task` is its task.
    """

    key: str
    kind: str
    references: tuple[str, ...]
    answers: tuple[Answer, ...]
    record: Mapping[str, Any]
    task: str


@dataclass(frozen=True)
class Found:
    """One page of disagreements: `count` are all, `of` the questions that both were asked."""

    rows: tuple[Disagreement, ...]
    count: int
    of: int
    page: int
    pages: int


def benchmarks_of(evaluations: Sequence[Evaluation]) -> list[Key]:
    """Return the benchmarks that two or more evaluations were asked, the reference's first."""
    times: dict[Key, int] = {}
    for evaluation in evaluations:
        for key in evaluation.groups:
            times[key] = times.get(key, 0) + 1
    return [key for key, count in times.items() if count > 1]


def parse_key(text: str) -> Key:
    """Read `benchmark@shots`. Raises UserError."""
    name, _, shots = text.rpartition("@")
    if not name or not (shots.isascii() and shots.isdigit() and len(shots) < 6):
        raise UserError(f"'{text}' names no benchmark; name it with its shots: pope@0")
    return name, int(shots)


def find_disagreements(
    store: Store,
    evaluations: Sequence[Evaluation],
    key: Key,
    *,
    other: int = 1,
    who: Who = "either",
    page: int = 1,
    rows: int = PAGE_ROWS,
) -> Found:
    """Return where the first evaluation and number `other` disagree, the widest apart first.

    Every evaluation's answer is shown beside. Raises UserError where one of both was not asked,
    NotFound, Damaged.
    """
    if who not in get_args(Who):
        raise UserError(f"'{who}' chooses no questions; one of: {', '.join(get_args(Who))}")
    if not 0 < other < len(evaluations):
        raise UserError("a second run is needed, to disagree with the first")
    with Records(store) as records:
        reader = _Reader(records, evaluations, key)
        ours, theirs = reader.group(0), reader.group(other)
        places = shared_places(ours, theirs)
        chosen = _chosen(reader, ours, theirs, places, other, who)
        pages = max(1, -(-len(chosen) // rows))
        page = min(max(1, page), pages)
        shown = chosen[(page - 1) * rows : page * rows]
        made = tuple(reader.row(int(places[0][at])) for at in shown)
    return Found(made, len(chosen), len(places[0]), page, pages)


def _chosen(
    reader: _Reader,
    ours: Answers,
    theirs: Answers,
    places: tuple[NDArray[np.intp], NDArray[np.intp]],
    other: int,
    who: Who,
) -> NDArray[np.intp]:
    """Return which of the shared questions are shown, in their order of showing."""
    first, second = ours.scores[places[0]], theirs.scores[places[1]]
    apart = second - first
    if who == "answers":
        return np.array(
            [
                at
                for at in np.flatnonzero(~(apart != 0) | np.isnan(apart)).tolist()
                if reader.text(0, int(places[0][at])) != reader.text(other, int(places[1][at]))
            ],
            dtype=np.intp,
        )
    if who == "neither":
        return np.flatnonzero((first == 0) & (second == 0))
    kept = {"either": apart != 0, "second": apart > 0, "first": apart < 0}[who]
    found = np.flatnonzero(kept & np.isfinite(apart))
    return found[np.argsort(-np.abs(apart[found]), kind="stable")]


class _Reader:
    """The records of some evaluations of one benchmark, read when they are needed."""

    def __init__(self, records: Records, evaluations: Sequence[Evaluation], key: Key) -> None:
        self._records = records
        self._evaluations = evaluations
        self._key = key
        self._indexes: dict[Questions, Mapping[str, int]] = {}

    def group(self, number: int) -> Answers:
        """Return the group of one evaluation. Raises UserError."""
        found = self._evaluations[number].groups.get(self._key)
        if found is None:
            name = self._evaluations[number].name
            raise UserError(f"{name} was not asked {self._key[0]}@{self._key[1]}")
        return found

    def record(self, number: int, place: int) -> dict[str, Any]:
        """Return the record of a question's first draw."""
        _, sha256 = self._evaluations[number].makers[self._key]
        return self._records.at(sha256, self.group(number), place)

    def text(self, number: int, place: int) -> str:
        """Return an answer."""
        return str(self.record(number, place).get("answer", ""))

    def row(self, place: int) -> Disagreement:
        """Return a question of the first evaluation with the answers of all."""
        record = self.record(0, place)
        key = self.group(0).asked.key(place)
        given = record.get("references") or [record.get("reference")]
        return Disagreement(
            key=key,
            kind=str(record.get("type", "")),
            references=tuple(str(one) for one in given if one is not None),
            answers=tuple(self._answer(number, key) for number in range(len(self._evaluations))),
            record=record,
            task=self._evaluations[0].makers[self._key][0],
        )

    def _answer(self, number: int, key: str) -> Answer:
        group = self._evaluations[number].groups.get(self._key)
        place = None if group is None else self._index(group.asked).get(key)
        if group is None or place is None:
            return Answer(None, None)
        record = self.record(number, place)
        score = float(group.scores[place])
        return Answer(
            str(record.get("answer", ""))[:MOST_TEXT],
            score if np.isfinite(score) else None,
            record.get("finished") is not False,
            max(1, len(group.rounds)),
        )

    def _index(self, asked: Questions) -> Mapping[str, int]:
        """Return the places of keys; evaluations mostly share their questions."""
        if asked not in self._indexes:
            self._indexes[asked] = asked.index()
        return self._indexes[asked]
