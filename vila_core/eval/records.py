"""One record per sample, and what is computed from them: nothing is kept only as a mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vila_core.eval.metrics import bleu, chrf, has_control_characters
from vila_core.eval.stats import paired_interval, standard_error
from vila_core.jsonio import dumps

SEEN, BLIND = "seen", "blind"

_CORPUS_METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], tuple[float, str]]] = {
    "bleu": bleu,
    "chrf": chrf,
}


@dataclass(frozen=True)
class Record:
    """What a model answered to one question under one condition.

    `finished` is False where the answer was cut at the task's `max_new_tokens`.
    """

    key: str
    task: str
    type: str
    shots: int
    condition: str
    prompt_digest: str
    answer: str
    finished: bool
    reference: str
    score: float
    chance: float

    def line(self) -> str:
        """Return the record as one line of JSON."""
        return dumps(asdict(self)) + "\n"


def ordered(records: Iterable[Record]) -> list[Record]:
    """Return records by task, shots, condition (seen first) and key."""
    return sorted(records, key=lambda r: (r.task, r.shots, r.condition != SEEN, r.key))


def summarise(
    records: Iterable[Record], metrics: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return metrics by key, with counts, standard errors, and intervals of seen minus blind.

    Keys are `task/accuracy@shots`, `task/blind_accuracy@shots`, `task/chance@shots`, the same three
    per type (`task.type/…`), and `task/bleu@shots` or `task/chrf@shots` for the tasks that
    `metrics` gives one of these to. Standard errors are binomial; intervals are 95% paired
    bootstrap over questions. The order of `records` makes no difference.
    """
    summary = _Summary()
    groups: dict[tuple[str, int], list[Record]] = {}
    everything = ordered(records)
    for record in everything:
        groups.setdefault((record.task, record.shots), []).append(record)
    for (task, shots), group in groups.items():
        summary.add(task, shots, group)
        for kind in sorted({record.type for record in group}):
            summary.add(f"{task}.{kind}", shots, [r for r in group if r.type == kind])
        extra = (metrics or {}).get(task, "accuracy")
        if extra in _CORPUS_METRICS:
            summary.add_corpus_metric(extra, task, shots, [r for r in group if r.condition == SEEN])
    return {
        "metrics": summary.metrics,
        "counts": summary.counts,
        "standard_errors": summary.errors,
        "seen_minus_blind": summary.gaps,
        "signatures": summary.signatures,
        "unanswered": sum(not record.answer.strip() for record in everything),
        "unfinished": sum(not record.finished for record in everything),
        "control_characters": sum(has_control_characters(record.answer) for record in everything),
    }


class _Summary:
    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.errors: dict[str, float] = {}
        self.gaps: dict[str, dict[str, float]] = {}
        self.signatures: dict[str, str] = {}

    def add(self, name: str, shots: int, group: Sequence[Record]) -> None:
        """Add accuracy, chance and, where measured, the blind baseline of a group of records."""
        seen = [record for record in group if record.condition == SEEN]
        blind = {record.key: record for record in group if record.condition == BLIND}
        self._mean(f"{name}/accuracy@{shots}", [record.score for record in seen])
        chance = math.fsum(record.chance for record in seen) / len(seen)
        self.metrics[f"{name}/chance@{shots}"] = chance
        self.counts[f"{name}/chance@{shots}"] = len(seen)
        if blind:
            without = [blind[record.key].score for record in seen]
            self._mean(f"{name}/blind_accuracy@{shots}", without)
            gap = paired_interval([record.score for record in seen], without)
            self.gaps[f"{name}@{shots}"] = gap

    def add_corpus_metric(
        self, metric: str, task: str, shots: int, records: Sequence[Record]
    ) -> None:
        """Add a metric that compares all answers with all references at once."""
        key = f"{task}/{metric}@{shots}"
        value, signature = _CORPUS_METRICS[metric](
            [record.answer for record in records], [record.reference for record in records]
        )
        self.metrics[key], self.counts[key] = value, len(records)
        self.signatures[key] = signature

    def _mean(self, key: str, scores: Sequence[float]) -> None:
        mean = math.fsum(scores) / len(scores)
        self.metrics[key], self.counts[key] = mean, len(scores)
        self.errors[key] = standard_error(mean, len(scores))
