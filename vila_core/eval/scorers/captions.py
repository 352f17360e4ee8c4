"""CIDEr, BLEU-4 and ROUGE-L of captions, as the COCO caption evaluation computes them.

Source: github.com/tylin/coco-caption, packaged as pycocoevalcap; scores agree with it to rounding
error for the same tokens. Which tokeniser made the tokens is part of the result.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vila_core.eval.scorers.tokens import TokeniserName, tokenise

_LONGEST = 4  # words in an n-gram
_SIGMA = 6.0  # words; how fast CIDEr falls with the difference in length
_BETA = 1.2  # how much more recall counts than precision in ROUGE-L

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """A score of all captions, one per caption, and the tokeniser's name.

    `counts`, of BLEU alone, holds what each caption adds to the corpus: see `bleu_of`.
    """

    score: float
    per_sample: list[float]
    tokeniser: str
    counts: list[list[int]] = field(default_factory=list)


def cider(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    tokeniser: TokeniserName = "auto",
) -> Corpus:
    """Return CIDEr (CIDEr-D; papers print 100 times this), the mean over captions.

    An n-gram weighs by how few images have it in a reference: the score depends on the whole set,
    and one over few images can't be compared with one over many.
    """
    tokens = _tokens(answers, references, tokeniser)
    counted = [[_ngrams(words) for words in each] for each in tokens.references]
    frequency = Counter(ngram for each in counted for ngram in {n for one in each for n in one})
    images = math.log(len(counted))
    rarity = {ngram: images - math.log(count) for ngram, count in frequency.items()}
    scores: list[float] = []
    for words, each in zip(tokens.answers, counted, strict=True):
        vector = _vector(_ngrams(words), rarity, images)
        total = math.fsum(_similarity(vector, _vector(one, rarity, images)) for one in each)
        scores.append(10.0 * total / len(each))
    return Corpus(math.fsum(scores) / len(scores), scores, tokens.name)


def bleu4(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    tokeniser: TokeniserName = "auto",
) -> Corpus:
    """Return corpus BLEU-4 (0 to 1), counted over all captions, the closest reference's length."""
    tokens = _tokens(answers, references, tokeniser)
    counts = [_bleu_counts(words, each) for words, each in tokens.pairs()]
    return Corpus(bleu_of(counts), [_bleu(each) for each in counts], tokens.name, counts)


def bleu_of(counts: Sequence[Sequence[int]]) -> float:
    """Return corpus BLEU-4 (0 to 1) of some captions' counts, as `bleu4` gives them.

    Any draw of captions can so be scored without counting words again.
    """
    return _bleu([sum(column) for column in zip(*counts, strict=True)])


def rouge_l(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    tokeniser: TokeniserName = "auto",
) -> Corpus:
    """Return ROUGE-L (0 to 1), the mean over captions of the F-measure with the best references."""
    tokens = _tokens(answers, references, tokeniser)
    scores = [_rouge(words, each) for words, each in tokens.pairs()]
    return Corpus(math.fsum(scores) / len(scores), scores, tokens.name)


@dataclass(frozen=True)
class _Tokens:
    answers: list[list[str]]
    references: list[list[list[str]]]
    name: str

    def pairs(self) -> list[tuple[list[str], list[list[str]]]]:
        return list(zip(self.answers, self.references, strict=True))


def _tokens(
    answers: Sequence[str], references: Sequence[Sequence[str]], tokeniser: TokeniserName
) -> _Tokens:
    if not answers or len(answers) != len(references):
        raise ValueError(f"{len(answers)} captions for {len(references)} lists of references")
    if not all(references):
        raise ValueError("a caption can't be scored without references")
    texts = [*answers, *(text for each in references for text in each)]
    words, name = tokenise(texts, tokeniser)
    rest = iter(words[len(answers) :])
    return _Tokens(words[: len(answers)], [[next(rest) for _ in each] for each in references], name)


def _ngrams(words: Sequence[str]) -> Counter[Ngram]:
    return Counter(
        tuple(words[at : at + n])
        for n in range(1, _LONGEST + 1)
        for at in range(len(words) - n + 1)
    )


@dataclass(frozen=True)
class _Vector:
    weights: dict[Ngram, float]
    norms: tuple[float, ...]
    length: int


def _vector(ngrams: Counter[Ngram], rarity: dict[Ngram, float], unseen: float) -> _Vector:
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in ngrams.items()}
    squares = [0.0] * _LONGEST
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    # The official code takes the number of word pairs for the length.
    length = sum(count for ngram, count in ngrams.items() if len(ngram) == 2)
    return _Vector(weights, tuple(map(math.sqrt, squares)), length)


def _similarity(answer: _Vector, reference: _Vector) -> float:
    """Return the mean over n of the clipped cosine, less for captions of another length."""
    dots = [0.0] * _LONGEST
    for ngram, weight in answer.weights.items():
        other = reference.weights.get(ngram, 0.0)
        dots[len(ngram) - 1] += min(weight, other) * other
    norms = [a * b for a, b in zip(answer.norms, reference.norms, strict=True)]
    cosines = [dot / norm if norm else dot for dot, norm in zip(dots, norms, strict=True)]
    difference = answer.length - reference.length
    return math.exp(-(difference**2) / (2 * _SIGMA**2)) * math.fsum(cosines) / _LONGEST


def _bleu_counts(words: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """Return length, closest reference length, and per n the n-grams that are right and all."""
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= _ngrams(reference)
    right = [0] * _LONGEST
    for ngram, count in (_ngrams(words) & most).items():
        right[len(ngram) - 1] += count
    closest = min((abs(len(each) - len(words)), len(each)) for each in references)[1]
    there = [max(0, len(words) - n) for n in range(_LONGEST)]
    return [len(words), closest, *right, *there]


def _bleu(counts: Sequence[int]) -> float:
    length, closest = counts[:2]
    right, there = counts[2 : 2 + _LONGEST], counts[2 + _LONGEST :]
    # The official code's guards against division by nothing; they show in the sixth digit of a
    # caption without a matching 4-gram.
    tiny, small = 1e-15, 1e-9
    product = math.prod((a + tiny) / (b + small) for a, b in zip(right, there, strict=True))
    ratio = (length + tiny) / (closest + small)
    return product ** (1 / _LONGEST) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def _rouge(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    words = words or [""]  # as the official code has it, no words are one empty word
    shared = [(_longest_common(words, each or [""]), max(1, len(each))) for each in references]
    precision = max(common for common, _ in shared) / len(words)
    recall = max(common / length for common, length in shared)
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        above, row = row, [0]
        for at, other in enumerate(second, start=1):
            row.append(above[at - 1] + 1 if word == other else max(above[at], row[-1]))
    return row[-1]
