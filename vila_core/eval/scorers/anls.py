"""ANLS, average normalised Levenshtein similarity: DocVQA, InfographicVQA, ST-VQA.

Source: the evaluation script of the Robust Reading Competition (rrc.cvc.uab.es, challenge 17).
"""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5


def anls(answer: str, references: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Return 1 minus the smallest distance to a reference, as a share of the longer text.

    Below `threshold` it is 0. The distance is between texts in lower case with single blanks; the
    length is that of the texts as given, as in the official script.
    """
    if not references:
        raise ValueError("an answer can't be scored without references")
    similarity = 1.0 - min(_distance(answer, reference) for reference in references)
    return similarity if similarity >= threshold else 0.0


def _distance(answer: str, reference: str) -> float:
    longest = max(len(answer), len(reference))
    return levenshtein(_plain(answer), _plain(reference)) / longest if longest else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def levenshtein(first: str, second: str) -> int:
    """Return the smallest number of insertions, deletions and replacements of characters."""
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))
    for at, char in enumerate(first, start=1):
        above, row = row, [at]
        for to, other in enumerate(second, start=1):
            row.append(min(above[to] + 1, row[-1] + 1, above[to - 1] + (char != other)))
    return row[-1]
