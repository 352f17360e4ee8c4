"""Scores of answers. What is done to the texts first is part of the result (`NORMALISATION`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from vila_core.errors import require

NORMALISATION = "control characters dropped, lower case, runs of blanks to one, ends stripped"


def normalise(text: str) -> str:
    """Return the text as it is compared."""
    visible = "".join(" " if c.isspace() else c for c in text if c.isspace() or not _is_control(c))
    return " ".join(visible.lower().split())


def exact_match(answer: str, reference: str) -> float:
    """Return 1.0 if both are the same after `normalise`, else 0.0; an empty answer is wrong."""
    return float(bool(normalise(answer)) and normalise(answer) == normalise(reference))


def bleu(answers: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Return corpus BLEU-4 (0 to 1) over normalised texts, and sacrebleu's signature."""
    require("sacrebleu", extra="eval", why="score captions")
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize="none", force=True)  # the texts are words between blanks already
    score = metric.corpus_score(
        [normalise(answer) for answer in answers], [[normalise(text) for text in references]]
    )
    return score.score / 100, str(metric.get_signature())


def _is_control(character: str) -> bool:
    return unicodedata.category(character).startswith("C")
