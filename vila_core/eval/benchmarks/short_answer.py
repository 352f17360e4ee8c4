"""What the benchmarks of short answers share: how they ask, read an answer and average."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from vila_core.eval.benchmark import Grade, Options, Question
from vila_core.eval.files import ImageRef

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""LLaVA-1.5's format instruction (docs/Evaluation.md)."""

CHAT_PROMPT = f"`<image>↵{{question}}↵{SHORT_ANSWER}`"
PLAIN_PROMPT = "`<image>Question:{question} Short answer:`, and after a blank the answer"

# OpenFlamingo's postprocess_vqa_generation: a model that goes on writes the next example.
_NEXT_EXAMPLE = re.compile("Question|Answer|Short")


def ask(
    image: ImageRef, question: str, options: Options, instruction: str = SHORT_ANSWER
) -> tuple[str | ImageRef, ...]:
    """Return the parts of a prompt: LLaVA-1.5's, or OpenFlamingo's in the plain layout."""
    if options.layout == "plain":
        return image, f"Question:{question.strip()} Short answer:"
    return image, f"\n{question}\n{instruction}"


def said(question: Question, answer: str) -> str:
    """Return what of an answer counts: without blanks at its ends; in the plain layout, up to where
    the model starts the next example.
    """
    if question.extra.get("layout") == "plain":
        answer = _NEXT_EXAMPLE.split(answer, maxsplit=1)[0]
    return answer.strip()


def most_common(answers: Sequence[str]) -> str:
    """Return the answer that most people gave, the first of several; "" of none."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def mean(values: Iterable[float]) -> float:
    """Return the mean, free of the order of the values."""
    listed = list(values)
    return math.fsum(listed) / len(listed)


def accuracies(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return `accuracy` over all scored questions, and `accuracy/<type>` where types differ."""
    scores = [
        (question.type, grade.score)
        for question, grade in zip(questions, grades, strict=True)
        if grade.score is not None
    ]
    if not scores:
        return {}
    found = {"accuracy": mean(score for _, score in scores)}
    types = sorted({name for name, _ in scores})
    if len(types) > 1:
        for name in types:
            found[f"accuracy/{name}"] = mean(score for kind, score in scores if kind == name)
    return found


def as_json(value: Any) -> bytes:
    """Return a submission file's content."""
    return json.dumps(value, ensure_ascii=False).encode()
