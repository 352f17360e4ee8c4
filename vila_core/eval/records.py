"""One record per sample, and what is computed from them: nothing is kept only as a mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vila_core.eval.metrics import bleu
from vila_core.jsonio import dumps

SEEN, BLIND = "seen", "blind"
BOOTSTRAPS = 2_000


@dataclass(frozen=True)
class Record:
    """What a model answered to one question under one condition."""

    key: str
    task: str
    type: str
    shots: int
    condition: str
    prompt_digest: str
    answer: str
    reference: str
    score: float
    chance: float

    def line(self) -> str:
        """Return the record as one line of JSON."""
        return dumps(asdict(self)) + "\n"


def ordered(records: Iterable[Record]) -> list[Record]:
    """Return records by task, shots, condition (seen first) and key."""
    return sorted(records, key=lambda r: (r.task, r.shots, r.condition != SEEN, r.key))


def summarise(records: Sequence[Record], bleu_tasks: Iterable[str]) -> dict[str, Any]:
    """Return metrics by key, with counts, standard errors, and intervals of seen minus blind.

    Keys are `task/accuracy@shots`, `task/blind_accuracy@shots`, `task/chance@shots`,
    `task.type/accuracy@shots` and, for caption tasks, `task/bleu@shots`. Standard errors are
    binomial; intervals are 95% paired bootstrap over samples.
    """
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.task, record.shots), []).append(record)
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}
    errors: dict[str, float] = {}
    gaps: dict[str, dict[str, float]] = {}
    signatures: set[str] = set()

    def add(key: str, scores: Sequence[float]) -> None:
        mean = sum(scores) / len(scores)
        metrics[key], counts[key] = mean, len(scores)
        errors[key] = math.sqrt(max(mean * (1 - mean), 0.0) / len(scores))

    for (task, shots), group in sorted(groups.items()):
        seen = [record for record in group if record.condition == SEEN]
        blind = [record for record in group if record.condition == BLIND]
        add(f"{task}/accuracy@{shots}", [record.score for record in seen])
        metrics[f"{task}/chance@{shots}"] = sum(record.chance for record in seen) / len(seen)
        for kind in sorted({record.type for record in seen}):
            scores = [record.score for record in seen if record.type == kind]
            add(f"{task}.{kind}/accuracy@{shots}", scores)
        if blind:
            add(f"{task}/blind_accuracy@{shots}", [record.score for record in blind])
            gaps[f"{task}@{shots}"] = _gap(seen, blind)
        if task in set(bleu_tasks):
            value, signature = bleu([r.answer for r in seen], [r.reference for r in seen])
            metrics[f"{task}/bleu@{shots}"] = value
            signatures.add(signature)
    return {
        "metrics": metrics,
        "counts": counts,
        "standard_errors": errors,
        "seen_minus_blind": gaps,
        "bleu": sorted(signatures),
        "unanswered": sum(not record.answer.strip() for record in records),
    }


def _gap(seen: Sequence[Record], blind: Sequence[Record]) -> dict[str, float]:
    """Return the mean difference of the same questions, and its 95% paired bootstrap interval."""
    without = {record.key: record.score for record in blind}
    differences = np.array([record.score - without[record.key] for record in seen])
    rng = np.random.default_rng(0)
    draws = rng.integers(len(differences), size=(BOOTSTRAPS, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975))
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}
