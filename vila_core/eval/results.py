"""What a benchmark's answers become: a record per sample, official metrics, and how sure they are.

Shots are part of every metric's key (`pope/f1@0`); demonstrations are drawn by seeds and orders,
over which the metric is averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vila_core.eval.answerer import Answer
from vila_core.eval.benchmark import Benchmark, Grade, Question
from vila_core.eval.bootstrap import metric_intervals
from vila_core.eval.curve import control_gap, curves
from vila_core.eval.metrics import has_control_characters
from vila_core.eval.records import BLIND, SEEN
from vila_core.jsonio import dumps

TEXT_DEMOS = "text_demos"
"""The control: demonstrations without their images, the question with its own."""


@dataclass(frozen=True, order=True)
class Round:
    """All questions of a benchmark, asked once: with so many demonstrations, drawn so."""

    shots: int
    condition: str = SEEN
    seed: int = 0
    order: int = 0


@dataclass(frozen=True)
class Answered:
    """A round with its answers, the digests of their prompts, and their grades."""

    round: Round
    answers: Sequence[Answer]
    digests: Sequence[str]
    grades: Sequence[Grade]


@dataclass(frozen=True)
class SampleRecord:
    """What became of one question in one round: one line of records.jsonl.

    `score` runs from 0 to 1, or is None where it can't be known here. `prompt_digest` is the sha256
    of the prompt's text and images; `parsed` is the answer as the official post-processing reads
    it.
    """

    key: str
    task: str
    version: str
    type: str
    unit: str
    shots: int
    condition: str
    seed: int
    order: int
    prompt_digest: str
    answer: str
    finished: bool
    parsed: str
    score: float | None
    references: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the record as one line of JSON."""
        return dumps(self.__dict__) + "\n"


def records(
    benchmark: Benchmark, questions: Sequence[Question], answered: Iterable[Answered]
) -> list[SampleRecord]:
    """Return a record per question and round, in the order of rounds and of the official file."""
    return [
        SampleRecord(
            key=question.key,
            task=benchmark.name,
            version=benchmark.version,
            type=question.type,
            unit=question.unit or question.key,
            shots=each.round.shots,
            condition=each.round.condition,
            seed=each.round.seed,
            order=each.round.order,
            prompt_digest=digest,
            answer=answer.text,
            finished=answer.finished,
            parsed=grade.parsed,
            score=grade.score,
            references=question.references,
            detail=grade.detail,
        )
        for each in sorted(answered, key=lambda each: each.round)
        for question, answer, digest, grade in zip(
            questions, each.answers, each.digests, each.grades, strict=True
        )
    ]


def metric_key(benchmark: str, metric: str, round_: Round) -> str:
    """Return `task/metric@shots`, with the condition before the metric unless images are seen."""
    condition = "" if round_.condition == SEEN else f"{round_.condition}_"
    return f"{benchmark}/{condition}{metric}@{round_.shots}"


def all_metrics(
    benchmark: Benchmark, questions: Sequence[Question], answered: Sequence[Answered]
) -> dict[str, float]:
    """Return every official metric by key, averaged over seeds and orders of demonstrations.

    Rounds that are controls (blind, text-only demonstrations) give the headline alone.
    """
    values: dict[str, list[float]] = {}
    for each in answered:
        if not _some(each.grades):
            continue  # scored elsewhere, or by a judge that is missing
        found = benchmark.metrics(questions, each.grades)
        for name, value in found.items():
            if each.round.condition == SEEN or name == benchmark.headline:
                key = metric_key(benchmark.name, name, each.round)
                values.setdefault(key, []).append(value)
    return {key: math.fsum(found) / len(found) for key, found in values.items()}


def intervals(
    benchmark: Benchmark, questions: Sequence[Question], answered: Sequence[Answered]
) -> dict[str, dict[str, float]]:
    """Return 95% intervals of the official metrics by key, over units.

    Of the first round of each number of shots, controls left out; where there are several draws of
    demonstrations, the curves have the intervals over all of them.
    """
    found: dict[str, dict[str, float]] = {}
    for each in sorted(answered, key=lambda each: each.round):
        key = metric_key(benchmark.name, benchmark.headline, each.round)
        if each.round.condition != SEEN or key in found or not _some(each.grades):
            continue
        of_round = metric_intervals(questions, each.grades, benchmark.metrics)
        found |= {
            metric_key(benchmark.name, name, each.round): interval
            for name, interval in of_round.items()
        }
    return found


def in_context(lines: Sequence[SampleRecord]) -> dict[str, Any]:
    """Return the in-context-learning curves by condition; nothing for one number of shots."""
    if len({line.shots for line in lines}) < 2:
        return {}
    rows = [line.__dict__ for line in lines]
    return {
        "curves": {name: curve.as_json() for name, curve in curves(rows).items()},
        "images_bring": control_gap(rows, TEXT_DEMOS),
    }


def submission(
    benchmark: Benchmark, questions: Sequence[Question], answered: Sequence[Answered]
) -> dict[str, bytes]:
    """Return the official submission files, of the first round with images; none without."""
    if benchmark.submission is None:
        return {}
    first = min((each for each in answered if each.round.condition == SEEN), key=lambda a: a.round)
    return benchmark.submission(questions, [answer.text for answer in first.answers])


def health(answered: Iterable[Answered]) -> dict[str, int]:
    """Count the answers that say something is wrong with a model or its template."""
    answers = [a for each in answered if each.round.condition != BLIND for a in each.answers]
    return {
        "answers": len(answers),
        "unanswered": sum(not answer.text.strip() for answer in answers),
        "unfinished": sum(not answer.finished for answer in answers),
        "control_characters": sum(has_control_characters(answer.text) for answer in answers),
    }


def _some(grades: Sequence[Grade]) -> bool:
    return any(grade.score is not None for grade in grades)
