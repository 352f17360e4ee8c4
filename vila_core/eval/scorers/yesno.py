"""Questions that are answered by yes or no: POPE, and MME's points.

Sources: github.com/RUCAIBox/POPE (evaluate.py; LLaVA's eval_pope.py is the same), and MME's
calculation.py (github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
"""MME's ten perception tasks, 200 points each."""

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
"""MME's four cognition tasks, 200 points each."""


def pope_answer(text: str) -> Literal["yes", "no"]:
    """Return how POPE reads an answer: "no" if its first sentence holds a word of negation.

    The words are "No", "no" and "not", after commas are dropped; only blanks part words. Anything
    else is "yes", an empty answer too.
    """
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def binary_metrics(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return accuracy, precision, recall, f1 and yes_ratio (of predictions), each 0 to 1.

    "yes" is the positive class; whatever isn't "no" counts as "yes", as in the official code. A
    share of nothing is 0, where the official code fails. Raises ValueError for lists of different
    or no length.
    """
    if not labels or len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    said = [prediction != "no" for prediction in predictions]
    true = [label != "no" for label in labels]
    hits = sum(a and b for a, b in zip(said, true, strict=True))
    precision, recall = _share(hits, sum(said)), _share(hits, sum(true))
    return {
        "accuracy": sum(a == b for a, b in zip(said, true, strict=True)) / len(true),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * precision * recall, precision + recall),
        "yes_ratio": sum(said) / len(said),
    }


def mme_answer(text: str) -> Literal["yes", "no", "other"]:
    """Return how MME's tool reads an answer: by its first four characters, in lower case."""
    start = text.lower()[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def mme_scores(graded: Iterable[tuple[str, str, bool]]) -> dict[str, float]:
    """Return MME's points from (category, image, whether right) of every question.

    Per category `acc/<category>` (share of questions), `acc+/<category>` (share of images with both
    questions right) and `score/<category>` (100 * (acc + acc+), at most 200); `perception` and
    `cognition` sum the scores of their categories. A category that is in neither list counts in
    neither sum. Raises ValueError for an image without exactly two questions.
    """
    images: dict[str, dict[str, list[bool]]] = {}
    for category, image, right in graded:
        images.setdefault(category, {}).setdefault(image, []).append(right)
    scores: dict[str, float] = {}
    for category, pairs in images.items():
        for image, pair in pairs.items():
            if len(pair) != 2:
                raise ValueError(f"{category}: {image} has {len(pair)} questions instead of two")
        acc = sum(map(sum, pairs.values())) / (2 * len(pairs))
        plus = sum(map(all, pairs.values())) / len(pairs)
        scores |= {f"acc/{category}": acc, f"acc+/{category}": plus}
        scores[f"score/{category}"] = 100 * acc + 100 * plus
    for name, categories in (("perception", PERCEPTION), ("cognition", COGNITION)):
        scores[name] = sum(scores.get(f"score/{category}", 0.0) for category in categories)
    return scores


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
