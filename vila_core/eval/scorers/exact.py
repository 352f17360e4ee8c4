"""Answers that are right or wrong: exact match, GQA, and ChartQA's relaxed match."""

from __future__ import annotations

from collections.abc import Sequence


def exact(answer: str, references: Sequence[str]) -> float:
    """Return 1.0 if the answer, ends stripped, is one of the references in any case, else 0.0."""
    wanted = {reference.strip().lower() for reference in references}
    return float(answer.strip().lower() in wanted)


def gqa_answer(text: str) -> str:
    """Return an answer as LLaVA hands it to GQA's eval.py, which compares to the letter.

    Closing periods go, the rest is in lower case (LLaVA's convert_gqa_for_eval.py).
    """
    return text.rstrip(".").lower()


def relaxed(answer: str, reference: str, tolerance: float = 0.05) -> float:
    """Return 1.0 for a number within `tolerance` of the reference, or for the same text.

    ChartQA's measure (Methani et al. 2020, as coded for Pix2Struct): "%" divides by 100; where one
    is no number, or the reference is 0, the texts are compared in lower case.
    """
    value, target = _number(answer), _number(reference)
    if value is not None and target:
        return float(abs(value - target) / abs(target) <= tolerance)
    return float(answer.lower() == reference.lower())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
