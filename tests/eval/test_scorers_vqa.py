"""Expected texts and scores are what the official code (vqaEval.py, M4C's evaluator) gives."""

from __future__ import annotations

import pytest

from vila_core.eval.scorers.anls import anls, levenshtein
from vila_core.eval.scorers.exact import exact, gqa_answer, relaxed
from vila_core.eval.scorers.vqa import m4c_accuracy, normalise, vqa_accuracy, vqa_normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The poster shows a 10% discount.", "poster shows 10% discount"),  # M4C's own example
        ("Two, three?", "2 3"),
        ("none", "0"),
        ("an apple\tand\nthe pear", "apple and pear"),
        ("dont", "don't"),
        ("couldntve couldnt've", "couldntve couldn't've"),
        ("somebody'd", "somebodyd"),  # the wrong way round in the official table
        ("twas ow's'at", "'twas ow 's'at"),
        ("the dog's bowl", "dog 's bowl"),
        ("let's go", "let 's go"),
        ("x-ray", "x ray"),
        ("x- ray", "x ray"),
        ("black/white and/ or", "blackwhite and or"),
        ("n/a", "n"),  # the slash parts off an article
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("no. 5", "no 5"),
        ("3.x", "3x"),  # a period goes unless a digit follows, whatever stands before it
        ("." * 40 + "a", "." * 8 + "a"),  # at most 32 periods go
        ("A", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_textvqa_does(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000 -2", "1000 2"),
        ("1,000-2", "10002"),  # a comma in a number makes every mark go without a blank
        ("1000-2", "1000 2"),
        ("yes!", "yes"),
        ("the dog's", "dog's"),  # 's stays, unlike for TextVQA
        ("Yes, it is?", "yes it is"),
    ],
)
def test_answers_are_normalised_as_vqa_does(text: str, expected: str) -> None:
    assert vqa_normalise(text) == expected


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0)])
def test_soft_accuracy_leaves_each_person_out_once(matches: int, score: float) -> None:
    references = ["red"] * matches + ["blue"] * 5 + ["green"] * (5 - matches)
    assert round(vqa_accuracy("red", references), 12) == score
    assert round(m4c_accuracy("red", references), 12) == score


def test_vqa_normalises_only_where_people_differ() -> None:
    assert vqa_accuracy("Yes.", ["yes"] * 10) == 0.0
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1.0
    assert vqa_accuracy("yes\n", ["yes"] * 10) == 1.0
    assert vqa_accuracy("yes", ["yes", " yes\t"] * 5) == 1.0
    assert m4c_accuracy("Yes.", ["yes"] * 10) == 1.0
    assert vqa_accuracy("2", ["two", "Two", "2"] + ["many"] * 7) == pytest.approx(0.9)


def test_scores_need_references() -> None:
    for score in (vqa_accuracy, m4c_accuracy, anls):
        with pytest.raises(ValueError, match="without references"):
            score("red", [])


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("hello", ["hello"], 1.0),
        ("Helo  World", ["hello world"], 1 - 1 / 11),
        ("abcd", ["abxy"], 0.5),  # exactly at the threshold
        ("abcd", ["axyz"], 0.0),
        ("abcd", ["axyz", "abce"], 0.75),
        ("ab  cd", ["ab ce"], 1 - 1 / 6),  # blanks count in the length, not in the distance
        ("", [""], 1.0),
        ("", ["a"], 0.0),
    ],
)
def test_anls(answer: str, references: list[str], score: float) -> None:
    assert anls(answer, references) == score


def test_levenshtein() -> None:
    assert levenshtein("kitten", "sitting") == levenshtein("sitting", "kitten") == 3
    assert levenshtein("", "abc") == 3


def test_exact_and_gqa() -> None:
    assert exact(" Yes\n", ["no", "yes"]) == 1.0
    assert exact("yes.", ["yes"]) == 0.0
    assert gqa_answer("Left.") == "left"


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("105", "100", 1.0),
        ("105.01", "100", 0.0),
        ("95%", "0.95", 1.0),
        ("12", "12%", 0.0),
        ("0.0", "0", 0.0),  # near zero only the same text is right
        ("0", "0", 1.0),
        ("Yes", "yes", 1.0),
        ("1,000", "1000", 0.0),
        ("nan", "5", 0.0),
    ],
)
def test_relaxed(answer: str, reference: str, score: float) -> None:
    assert relaxed(answer, reference) == score
