"""Judged benchmarks: what the judge is asked, what becomes of its replies, what is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from tests.eval.benchmarks import samples_choice as samples
from tests.eval.benchmarks.test_choice_readers import asked, read
from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, Question
from vila_core.eval.judge import (
    Judgement,
    grades,
    judgements,
    record,
    reviews,
    unjudged,
    without_judge,
)

DAY = date(2026, 11, 25)


class Scripted:
    """A judge whose reply is a function of the prompt; it notes what it was asked."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply = reply
        self.asked: list[tuple[str, str, float, int]] = []

    def describe(self) -> dict[str, str]:
        return {"name": "scripted"}

    def judge(self, prompt: str, *, system: str, temperature: float, max_new_tokens: int) -> str:
        self.asked.append((prompt, system, temperature, max_new_tokens))
        return self.reply(prompt)


def run(
    bench: Benchmark,
    questions: list[Question],
    judge: Scripted,
    kept: dict[str, str] | None = None,
    workers: int = 1,
) -> list[Judgement]:
    assert bench.rubric is not None
    answers = [f"Mine {q.key}." for q in questions]
    kept = {} if kept is None else kept
    return judgements(bench.rubric, judge, questions, answers, kept, workers=workers)


def metrics(
    bench: Benchmark, questions: list[Question], judged: list[Judgement]
) -> dict[str, float]:
    assert bench.rubric is not None
    return bench.metrics(questions, grades(bench.rubric, ["" for _ in questions], judged))


def test_llava_bench_asks_as_the_official_script(tmp_path: Path) -> None:
    samples.make_llava_bench(tmp_path)
    bench, questions = read("llava_bench", tmp_path)
    judge = Scripted(lambda _: "8 6\nBecause.")
    run(bench, questions, judge)
    prompt, system, temperature, tokens = judge.asked[0]
    assert prompt == (
        "[Context]\nA view of 001.\n\n[Question]\nQuestion 0?\n\n"
        "[Assistant 1]\nGPT-4 says 0.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nMine 0.\n\n[End of Assistant 2]\n\n"
        "[System]\nRate both (conv).\n\n"
    )
    assert system.startswith("You are a helpful and precise assistant")
    assert (temperature, tokens) == (0.2, 1024)
    assert asked(questions[0]) == "<image>\nQuestion 0?"


def test_llava_bench_is_relative_and_leaves_failures_out(tmp_path: Path) -> None:
    samples.make_llava_bench(tmp_path)
    bench, questions = read("llava_bench", tmp_path)
    replies = {"Question 0?": "8 6", "Question 1?": "I can't rate that.", "Question 2?": "8, 7\n"}
    judge = Scripted(lambda prompt: next(r for q, r in replies.items() if q in prompt))
    judged = run(bench, questions, judge)
    assert [each.scores for each in judged] == [(8.0, 6.0), None, (8.0, 7.0)]
    found = metrics(bench, questions, judged)
    assert found["relative"] == pytest.approx(100 * 6.5 / 8)
    assert found["relative/conv"] == 75.0
    assert "relative/detail" not in found
    assert (found["judged"], found["failed"]) == (2.0, 1.0)


@pytest.mark.parametrize(
    "reply", ["", "\n8 6", "8", "8 6 7", "eight six", "nan 5", "-1 -1", "11 3", "8/10 6/10"]
)
def test_llava_bench_reads_two_scores_or_none(reply: str, tmp_path: Path) -> None:
    samples.make_llava_bench(tmp_path)
    rubric = read("llava_bench", tmp_path)[0].rubric
    assert rubric is not None
    assert rubric.read(reply) == ((8.0, 6.0) if reply == "\n8 6" else None)


def test_mm_vet_asks_with_the_instruction_of_the_official_script(tmp_path: Path) -> None:
    samples.make_mm_vet(tmp_path)
    bench, questions = read("mm_vet", tmp_path)
    judge = Scripted(lambda _: "0.5")
    judged = run(bench, questions, judge)
    assert judge.asked[0][0] == (
        "Compare and score.\n\nQuestion | Truth\n\n"
        "What is x in the equation? | -1 <AND> -5 | Mine v1_0. | "
    )
    assert [each.tries for each in judged] == [1, 1, 1]


def test_mm_vet_asks_again_warmer_and_means_by_capability(tmp_path: Path) -> None:
    samples.make_mm_vet(tmp_path)
    bench, questions = read("mm_vet", tmp_path)

    def reply(prompt: str) -> str:
        if "equation" in prompt:
            return "0.2" if prompt.endswith("(digit): ") else "The score is 0.2"
        return "1.0\n" if "What is it?" in prompt else "1.7"

    judge = Scripted(reply)
    judged = run(bench, questions, judge)
    assert [(each.scores, each.tries) for each in judged] == [((0.2,), 2), ((1.0,), 1), (None, 5)]
    assert [t for _, _, t, _ in judge.asked[-5:]] == [0.0, 0.0, 0.5, 1.0, 1.5]
    assert metrics(bench, questions, judged) == {
        "score": pytest.approx(0.6),
        "score/ocr": 0.2,
        "score/math": 0.2,
        "score/rec": 1.0,
        "score/only_rec": 1.0,
        "score/only_ocr_math": 0.2,
        "judged": 2.0,
        "failed": 1.0,
    }


@pytest.mark.parametrize("reply", ["", "nan", "1.1", "-0.1", "Score: 1", "one"])
def test_mm_vet_reads_a_score_from_0_to_1_or_none(reply: str, tmp_path: Path) -> None:
    samples.make_mm_vet(tmp_path)
    rubric = read("mm_vet", tmp_path)[0].rubric
    assert rubric is not None
    assert rubric.read(reply) is None


@pytest.mark.parametrize("workers", [1, 3])
def test_a_judge_that_breaks_off_is_not_asked_again_what_it_has_said(
    workers: int, tmp_path: Path
) -> None:
    samples.make_llava_bench(tmp_path)
    bench, questions = read("llava_bench", tmp_path)

    def refuse(prompt: str) -> str:
        if "Question 2?" in prompt:
            raise UserError("http://judge: refuses (401); set the key")
        return "8 6"

    kept: dict[str, str] = {}
    with pytest.raises(UserError, match="refuses"):
        run(bench, questions, Scripted(refuse), kept, workers)
    assert len(kept) == 2
    again = Scripted(lambda _: "5 5")
    judged = run(bench, questions, again, kept, workers)
    assert [each.scores for each in judged] == [(8.0, 6.0), (8.0, 6.0), (5.0, 5.0)]
    assert len(again.asked) == 1


def test_a_result_says_who_judged_when_and_by_which_prompts(tmp_path: Path) -> None:
    samples.make_llava_bench(tmp_path)
    bench, questions = read("llava_bench", tmp_path)
    assert bench.rubric is not None
    judge = Scripted(lambda prompt: "no" if "Question 1?" in prompt else "8 6")
    judged = run(bench, questions, judge)
    found = record(bench.rubric, judge, judged, DAY)
    assert found["judge"] == {"name": "scripted"}
    assert (found["date"], found["judgements"], found["failed"]) == ("2026-11-25", 3, 1)
    assert found["published_judge"] == "gpt-4-0314"
    other = record(bench.rubric, judge, judged[::-1], DAY)
    assert found["prompts_sha256"] != other["prompts_sha256"]
    lines = [json.loads(line) for line in reviews(questions, judged, judge, DAY).splitlines()]
    assert lines[0]["prompt"] == judge.asked[0][0]
    assert [line["scores"] for line in lines] == [[8.0, 6.0], None, [8.0, 6.0]]


@pytest.mark.parametrize("name", ["llava_bench", "mm_vet"])
def test_without_a_judge_answers_are_written_and_the_result_says_so(
    name: str, tmp_path: Path
) -> None:
    samples.MAKERS[name](tmp_path)
    bench, questions = read(name, tmp_path)
    answers = [f"A {q.key} ä" for q in questions]
    found = bench.grade(questions, answers)
    assert found == unjudged(answers)
    assert {grade.score for grade in found} == {None}
    assert bench.metrics(questions, found) == {}
    assert bench.submission is not None
    (written,) = bench.submission(questions, answers).values()
    assert answers[0] in written.decode()
    message = without_judge(bench)
    assert "judge is missing" in message
    assert bench.source in message


def test_answers_for_the_official_scripts(tmp_path: Path) -> None:
    samples.make_llava_bench(tmp_path / "a")
    samples.make_mm_vet(tmp_path / "b")
    bench, questions = read("llava_bench", tmp_path / "a")
    assert bench.submission is not None
    written = bench.submission(questions, [" one", "two", "three\n"])["llava_bench_answers.jsonl"]
    first = json.loads(written.splitlines()[0])
    assert (first["question_id"], first["text"], first["answer_id"]) == (0, "one", "0")
    bench, questions = read("mm_vet", tmp_path / "b")
    assert bench.submission is not None
    written = bench.submission(questions, ["one", "two", "three"])["mm_vet.json"]
    assert json.loads(written) == {"v1_0": "one", "v1_1": "two", "v1_2": "three"}


def test_a_judge_needs_the_official_wording(tmp_path: Path) -> None:
    samples.make_llava_bench(tmp_path / "a", rules=False)
    samples.make_mm_vet(tmp_path / "b", evaluator=False)
    for name, folder, file in (
        ("llava_bench", "a", "rule.json"),
        ("mm_vet", "b", "mm-vet_evaluator.py"),
    ):
        bench, questions = read(name, tmp_path / folder)
        judge = Scripted(lambda _: "1 1")
        with pytest.raises(UserError, match=file):
            run(bench, questions, judge)
        assert judge.asked == []
