"""Scores of answers. What is done to the texts first is part of the result (`NORMALISATION`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from vila_core.errors import require

NORMALISATION = "Unicode NFC, lower case, runs of blanks to one, ends stripped"


def normalise(text: str) -> str:
    """Return the text as it is compared."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def exact_match(answer: str, reference: str) -> float:
    """Return 1.0 if both are the same after `normalise`, else 0.0; an empty answer is wrong."""
    return float(bool(normalise(answer)) and normalise(answer) == normalise(reference))


def has_control_characters(text: str) -> bool:
    """Tell whether the text holds control characters, line ends and tabs aside."""
    return any(unicodedata.category(c) == "Cc" for c in text if not c.isspace())


def bleu(answers: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Return corpus BLEU-4 (0 to 1) over normalised texts, and sacrebleu's signature.

    n-grams are counted up to the longest that the answers have ("eff:yes" in the signature): where
    no caption has four words, plain BLEU-4 finds nothing to count and is zero whatever is answered.
    With a single answer of four words it is plain BLEU-4.
    """
    require("sacrebleu", extra="eval", why="score captions")
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True)
    score = metric.corpus_score(*_pairs(answers, references)).score / 100
    return min(score, 1.0), str(metric.get_signature())


def chrf(answers: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Return corpus chrF (0 to 1) over normalised texts, and sacrebleu's signature.

    chrF compares character n-grams, so it has a meaning for captions of two or three words too.
    """
    require("sacrebleu", extra="eval", why="score captions")
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    score = metric.corpus_score(*_pairs(answers, references)).score / 100
    return min(score, 1.0), str(metric.get_signature())


def _pairs(answers: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    return [normalise(text) for text in answers], [[normalise(text) for text in references]]
