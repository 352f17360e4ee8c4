from __future__ import annotations

import pytest

from vila_core.eval.scorers.yesno import (
    COGNITION,
    PERCEPTION,
    binary_metrics,
    mme_answer,
    mme_scores,
    pope_answer,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("No, there is none", "no"),
        ("Yes. No.", "yes"),  # the first sentence alone
        ("There is not, no", "no"),
        ("nothing", "yes"),
        ("NO", "yes"),
        ("no\n", "yes"),  # only blanks part words
        ("", "yes"),
    ],
)
def test_pope_reads_the_first_sentence(text: str, answer: str) -> None:
    assert pope_answer(text) == answer


def test_pope_metrics_to_the_last_printed_digit() -> None:
    """LLaVA on the random questions of POPE's paper: the counts are what its figures leave open."""
    hits, false, right_no, missed = 1497, 1364, 136, 3  # 1,500 questions of each label
    predictions = ["yes"] * (hits + false) + ["no"] * (right_no + missed)
    labels = ["yes"] * hits + ["no"] * (false + right_no) + ["yes"] * missed
    printed = {
        name: f"{100 * value:.2f}" for name, value in binary_metrics(predictions, labels).items()
    }
    assert printed == {
        "accuracy": "54.43",
        "precision": "52.32",
        "recall": "99.80",
        "f1": "68.65",
        "yes_ratio": "95.37",
    }


def test_binary_metrics_of_a_model_that_never_says_yes() -> None:
    metrics = binary_metrics(["no", "no"], ["yes", "no"])
    assert metrics == {"accuracy": 0.5, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}
    with pytest.raises(ValueError, match="1 predictions for 2"):
        binary_metrics(["no"], ["yes", "no"])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("YES, it is", "yes"),
        ("  no", "no"),
        ("   no", "other"),  # only the first four characters
        ("not", "no"),
        ("The answer is yes", "other"),
        ("", "other"),
    ],
)
def test_mme_reads_four_characters(text: str, answer: str) -> None:
    assert mme_answer(text) == answer


def test_mme_points() -> None:
    graded = [
        ("existence", "a.jpg", True),
        ("existence", "b.jpg", True),
        ("existence", "a.jpg", True),
        ("existence", "b.jpg", False),
        ("OCR", "c.jpg", True),
        ("OCR", "c.jpg", True),
        ("code_reasoning", "c.jpg", False),
        ("code_reasoning", "c.jpg", True),
    ]
    scores = mme_scores(graded)
    assert scores["acc/existence"] == 0.75
    assert scores["acc+/existence"] == 0.5
    assert scores["score/existence"] == 125.0
    assert scores["perception"] == 325.0
    assert scores["cognition"] == 50.0


def test_mme_has_2000_and_800_points() -> None:
    graded = [(name, image, True) for name in (*PERCEPTION, *COGNITION) for image in "aabb"]
    scores = mme_scores(graded)
    assert (scores["perception"], scores["cognition"]) == (2000, 800)
    with pytest.raises(ValueError, match=r"count: a\.jpg has 1 questions"):
        mme_scores([("count", "a.jpg", True)])
