"""Scores, summaries and intervals, against values worked out by hand."""

from __future__ import annotations

import pytest

from vila_core.eval.metrics import bleu, exact_match, normalise
from vila_core.eval.records import BLIND, SEEN, Record, ordered, summarise


def record(
    key: str, score: float, condition: str = SEEN, kind: str = "color", shots: int = 0
) -> Record:
    answer = "red" if score else ""
    return Record(key, "vqa", kind, shots, condition, "d", answer, "red", score, 0.25)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("Red", 1), (" red\n", 1), ("red\x00", 1), ("", 0), ("\x00", 0), ("red car", 0)],
)
def test_exact_match(answer: str, score: float) -> None:
    assert exact_match(answer, "red") == score
    assert normalise("a\t\n b") == "a b"


def test_bleu_is_one_for_equal_texts_and_names_its_settings() -> None:
    texts = ["red circle top-left , blue square", "a b c d e"]
    value, signature = bleu(texts, texts)
    assert value == pytest.approx(1.0)
    assert "tok:none" in signature
    assert bleu(["x y z w v", "q"], texts)[0] < 0.01


def test_summary_has_accuracy_chance_blind_and_types() -> None:
    records = [record(f"k{n}", float(n < 3)) for n in range(4)]
    records += [record(f"k{n}", float(n < 1), BLIND) for n in range(4)]
    records += [record("k9", 0.0, kind="count", shots=2)]
    summary = summarise(records, bleu_tasks=["vqa"])
    metrics = summary["metrics"]
    assert metrics["vqa/accuracy@0"] == 0.75
    assert metrics["vqa/blind_accuracy@0"] == 0.25
    assert metrics["vqa/chance@0"] == 0.25
    assert metrics["vqa.color/accuracy@0"] == 0.75
    assert metrics["vqa.count/accuracy@2"] == 0.0
    assert "vqa/bleu@0" in metrics
    assert summary["counts"]["vqa/accuracy@0"] == 4
    assert summary["standard_errors"]["vqa/accuracy@0"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert summary["seen_minus_blind"]["vqa@0"]["mean"] == 0.5
    assert 0 <= summary["seen_minus_blind"]["vqa@0"]["low"] <= 0.5
    assert summary["unanswered"] == 5


def test_records_have_one_order() -> None:
    records = [
        record("b", 1.0, BLIND),
        record("b", 1.0),
        record("a", 0.0, shots=1),
        record("a", 0.0),
    ]
    keys = [(r.shots, r.condition, r.key) for r in ordered(records)]
    assert keys == [(0, SEEN, "a"), (0, SEEN, "b"), (0, BLIND, "b"), (1, SEEN, "a")]
    assert ordered(records[::-1]) == ordered(records)
