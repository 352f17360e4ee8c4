"""The scores in an evaluation's records, by benchmark, small enough for many benchmarks at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vila_core.errors import UserError
from vila_core.eval.records import SEEN

Key = tuple[str, int]
"""Benchmark (or task of an evaluation set) and number of shots."""


@dataclass
class Answers:
    """The seen answers to one benchmark at one number of shots; blind and other controls aside.

    `scores` are means over draws of demonstrations, by question; `units` has only questions that
    belong together with others. `scored` is False where a score is not known. `prompts` tell what
    was asked from other words or images.
    """

    benchmark: str
    shots: int
    scores: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)
    scored: bool = True

    @property
    def name(self) -> str:
        """How it is written: `benchmark@shots`."""
        return f"{self.benchmark}@{self.shots}"


def read_answers(records: bytes, where: str) -> dict[Key, Answers]:
    """Return the answers in `records.jsonl` by benchmark and shots.

    Raises UserError naming `where` and the line that is no record.
    """
    found: dict[Key, Answers] = {}
    draws: dict[Key, dict[str, int]] = {}
    for number, line in enumerate(_lines(records), start=1):
        if not line:
            continue
        try:
            row = json.loads(line.decode())
            if row["condition"] != SEEN:
                continue
            key = str(row["task"]), int(row["shots"])
            answers = found.get(key)
            if answers is None:
                answers, draws[key] = found.setdefault(key, Answers(*key)), {}
            _add(answers, draws[key], row)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{where}:{number}: is not a record of an evaluation") from None
    return found


def _add(answers: Answers, draws: dict[str, int], row: Mapping[str, object]) -> None:
    name, score = row["key"], row["score"]
    if not isinstance(name, str):
        raise TypeError
    prompt = hash(row.get("prompt_digest"))
    answers.prompts[name] = hash((answers.prompts[name], prompt)) if name in draws else prompt
    version = str(row.get("version") or "")
    if version not in answers.versions:
        answers.versions.add(version)
    if row.get("unit"):
        answers.units[name] = str(row["unit"])
    if score is None:
        answers.scored = False
        return
    value = float(score)  # type: ignore[arg-type]  # what is no number raises TypeError
    if not math.isfinite(value):
        raise ValueError
    count = draws.get(name, 0)
    draws[name] = count + 1
    before = answers.scores.get(name, 0.0)
    answers.scores[name] = before + (value - before) / (count + 1)


def _lines(data: bytes) -> Iterator[bytes]:
    """Yield lines one by one: the list of all would take as much again."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        yield data[start:end]
        start = end + 1
