"""Scores, summaries and intervals, against values worked out by hand."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from vila_core.eval.metrics import bleu, chrf, exact_match, has_control_characters, normalise
from vila_core.eval.records import BLIND, SEEN, Record, ordered, summarise
from vila_core.eval.stats import paired_interval, standard_error


def record(
    key: str, score: float, condition: str = SEEN, kind: str = "color", shots: int = 0
) -> Record:
    answer = "red" if score else ""
    return Record(key, "vqa", kind, shots, condition, "d", answer, True, "red", score, 0.25)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("Red", 1), (" red\n", 1), ("red\x00", 0), ("", 0), ("\x00", 0), ("red car", 0), (" ", 0)],
)
def test_exact_match(answer: str, score: float) -> None:
    assert exact_match(answer, "red") == score


def test_normalisation() -> None:
    assert normalise("A\t\n b\u00a0") == "a b"
    assert normalise("cafe\u0301") == normalise("CAF\u00c9")
    assert has_control_characters("a\x07")
    assert not has_control_characters("a\tb\n\u200d")


@pytest.mark.parametrize(("metric", "setting"), [(bleu, "eff:yes|tok:13a"), (chrf, "nc:6")])
def test_caption_metrics_go_from_zero_to_one_and_name_their_settings(
    metric: object, setting: str
) -> None:
    assert callable(metric)
    texts = ["red circle top-left", "blue square"]
    value, signature = metric(texts, [text.upper() for text in texts])
    assert value == pytest.approx(1.0)
    assert value <= 1.0
    assert setting in signature
    assert metric(["x y z w v", "q"], texts)[0] < 0.1
    assert metric(["", ""], texts)[0] == 0.0
    assert 0 < metric(["red square top-left", "blue square"], texts)[0] < 1


def test_bleu_is_bleu_4_where_there_are_four_words() -> None:
    answer, reference = "a b c d e f", "a b c d x f"
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25  # same length: no brevity penalty
    assert bleu([answer], [reference])[0] == pytest.approx(expected)


def test_summary_has_accuracy_chance_blind_and_types() -> None:
    records = [record(f"k{n}", float(n < 3)) for n in range(4)]
    records += [record(f"k{n}", float(n < 1), BLIND) for n in range(4)]
    records += [record("k9", 0.0, kind="count", shots=2)]
    summary = summarise(records, {"vqa": "chrf"})
    metrics = summary["metrics"]
    assert metrics["vqa/accuracy@0"] == 0.75
    assert metrics["vqa/blind_accuracy@0"] == metrics["vqa.color/blind_accuracy@0"] == 0.25
    assert metrics["vqa/chance@0"] == 0.25
    assert metrics["vqa.color/accuracy@0"] == 0.75
    assert metrics["vqa.count/accuracy@2"] == 0.0
    assert "vqa/blind_accuracy@2" not in metrics
    assert "vqa/chrf@0" in metrics
    assert "vqa/chrf@0" not in summarise(records)["metrics"]
    assert summary["signatures"].keys() == {"vqa/chrf@0", "vqa/chrf@2"}
    assert summary["counts"]["vqa/accuracy@0"] == 4
    assert summary["counts"].keys() == metrics.keys()
    assert summary["standard_errors"]["vqa/accuracy@0"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert summary["seen_minus_blind"]["vqa@0"]["mean"] == 0.5
    assert summary["unanswered"] == 5
    assert summary["unfinished"] == summary["control_characters"] == 0


def test_a_summary_does_not_depend_on_the_order_of_records() -> None:
    records = [record(f"k{n}", float(n % 3 == 0)) for n in range(31)]
    records += [record(f"k{n}", float(n % 5 == 0), BLIND) for n in range(31)]
    shuffled = random.Random(1).sample(records, len(records))
    assert json.dumps(summarise(records)) == json.dumps(summarise(shuffled))


def test_bad_answers_are_counted() -> None:
    def said(key: str, answer: str, finished: bool = True) -> Record:
        return Record(key, "t", "k", 0, SEEN, "d", answer, finished, "red", 0.0, 0.0)

    answers = [said("a", ""), said("b", "x\x00"), said("c", "x x x x", False), said("d", " ")]
    summary = summarise(answers)
    counts = {name: summary[name] for name in ("unanswered", "unfinished", "control_characters")}
    assert counts == {"unanswered": 2, "unfinished": 1, "control_characters": 1}


def test_standard_error_is_binomial() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 5) == 0.0


def test_interval_agrees_with_drawing_questions() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(200) < 0.7, rng.random(200) < 0.4
    interval = paired_interval(first.tolist(), second.tolist())
    differences = first.astype(float) - second
    means = differences[rng.integers(200, size=(20_000, 200))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    assert interval["mean"] == pytest.approx(differences.mean())
    assert interval["low"] == pytest.approx(low, abs=0.015)
    assert interval["high"] == pytest.approx(high, abs=0.015)


def test_interval_pairs_questions() -> None:
    same = [1.0, 0.0] * 50
    assert paired_interval(same, same) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    opposite = paired_interval(same, same[::-1])
    assert opposite["low"] < -0.1 < 0.1 < opposite["high"]
    with pytest.raises(ValueError, match="there are 2 and 1 scores"):
        paired_interval([1.0, 0.0], [1.0])


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        first, second = rng.random(150) < 0.6, rng.random(150) < 0.35
        interval = paired_interval(first.tolist(), second.tolist())
        hits += interval["low"] <= 0.25 <= interval["high"]
    # 95% of 200, give or take three binomial standard deviations
    assert abs(hits - 190) <= 3 * math.sqrt(200 * 0.95 * 0.05) + 1


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


def test_a_record_is_one_line_whatever_was_answered() -> None:
    strange = Record("k", "t", "k", 0, SEEN, "d", 'a\n\r\x00\u2028"\ufffd', True, "red", 0.0, 0.5)
    line = strange.line()
    assert line.count("\n") == 1
    assert json.loads(line)["answer"] == strange.answer
