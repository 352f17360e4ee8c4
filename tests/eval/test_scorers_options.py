"""Expected readings are those of the official code of each benchmark."""

from __future__ import annotations

import random

import pytest

from vila_core.eval.scorers import options

PETS = ("A cat", "a red car", "dog")


def test_seed_wants_the_letter_and_nothing_else() -> None:
    assert options.strict_letter("B", "ABCD") == "B"
    for text in ("B.", "b", " B", "E", ""):
        assert options.strict_letter(text, "ABCD") is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" B\t", "B"),
        ("B. The dog", "B"),
        ("B.", None),
        ("B\nbecause", "B"),
        ("The answer is C.", "C"),
        ("So B? The answer is C", "C"),
        ("The answer is A or not. The answer is B.", "B"),  # the one with a period goes first
        ("the answer is C.", None),
        ("E", None),  # a letter, but not one of the question's
        ("", None),
    ],
)
def test_scienceqa(text: str, letter: str | None) -> None:
    assert options.scienceqa_letter(text, "ABC") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("The answer is B.", "B"),
        ("A or B", None),
        ("C, since the car in the picture is red", None),  # not among the last four words
        ("It is C as you see", "C"),
        ("It is a DOG", "C"),
        ("a red car and a dog", None),
        ("Z", "Z"),
        ("Cannot determine the answer, maybe A", "Z"),
        ("it is the dog that has been there for longer than anybody could say", None),
        ("Failed to obtain answer via API. A", None),
        ("", None),
    ],
)
def test_mmbench_without_a_judge(text: str, letter: str | None) -> None:
    assert options.infer_option(text, PETS) == letter


def test_circular_wants_all_rotations() -> None:
    groups = ["1", "2", "1", "2", "3"]
    assert options.circular(groups, [True, True, True, False, False]) == {
        "1": True,
        "2": False,
        "3": False,
    }
    with pytest.raises(ValueError, match="argument"):
        options.circular(groups, [True])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),  # of the official README
        ("(A) is wrong, so (C).", "C"),
        ("A or B", "B"),  # of several, the last
        ("B before A", "A"),
        ("'B'.", "B"),
        ("'B.'", None),  # each mark is stripped once, in a fixed order
        ("B.A", None),
        ("I think that it shows a red car and no dog", "C"),
        ("a red car", None),  # too short to be searched for an option's text
        ("", None),
    ],
)
def test_mmmu_letters(text: str, letter: str | None) -> None:
    assert options.mmmu_answer(text, PETS) == letter


def test_mmmu_draws_as_the_official_code_does() -> None:
    draw, official = random.Random(42), random.Random(42)
    for _ in range(20):
        assert options.mmmu_answer("?", PETS, draw) == official.choice(["A", "B", "C"])
    assert options.mmmu_answer("B", PETS, draw) == "B"


@pytest.mark.parametrize(
    ("text", "references", "right"),
    [
        ("36 watts", ["30"], False),  # of the official README
        ("The answer is 30 W", ["30"], True),
        ("1,234.567", ["1234.57"], True),
        ("x = 3.5", ["3.50"], True),
        ("It is 1e3 or so", ["1000"], True),
        ("So the result is the Cat family", ["cat"], True),
        ("cat is the animal", ["cat"], False),  # only what follows the last "is" counts
        ("it is art", ["A"], False),  # a letter needs a blank beside it
        ("it is a b", ["A"], True),
        ("30", ["cat", "30"], True),
        ("", ["30"], False),
    ],
)
def test_mmmu_open_questions(text: str, references: list[str], right: bool) -> None:
    assert options.mmmu_open_match(text, references) is right


def test_letters() -> None:
    assert options.letters(4) == "ABCD"
    for count in (0, 27):
        with pytest.raises(ValueError, match="lettered"):
            options.letters(count)
