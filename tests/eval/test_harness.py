from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from vila_core.eval.answerer import Answer
from vila_core.eval.journal import Journal
from vila_core.eval.prompts import Prompt

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance, OutputType

from vila_core.eval.harness import HarnessModel, cut, known_tasks


class Counter:
    """A model whose log-likelihood of a text is minus its length; it repeats the prompt."""

    sees = False

    def __init__(self) -> None:
        self.contexts: list[str] = []
        self.stops: list[str | None] = []

    def describe(self) -> dict[str, str]:
        return {}

    def written(self, prompt: Prompt) -> Prompt:
        return prompt

    def answers(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: str | None, blind: bool
    ) -> Iterator[list[tuple[int, Answer]]]:
        self.stops.append(stop)
        for n, prompt in reversed(list(enumerate(prompts))):
            yield [(n, Answer(prompt.text[:max_new_tokens], False))]

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool
    ) -> Iterator[list[tuple[int, list[float]]]]:
        self.contexts += [prompt.text for prompt in prompts]
        for n, its in reversed(list(enumerate(choices))):
            yield [(n, [-float(len(one)) for one in its])]


def requests(kind: OutputType, *arguments: tuple[object, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, n) for n, each in enumerate(arguments)]


def test_continuations_of_a_context_are_scored_together(tmp_path: Path) -> None:
    answerer, told = Counter(), []
    with Journal(tmp_path / "answers.jsonl", {}) as journal:
        model = HarnessModel(answerer, journal, told.append)
        asked = requests("loglikelihood", ("a", " b"), ("c", " dd"), ("a", " eee"), ("a", " b"))
        found = model.loglikelihood(asked)
        assert found == [(-2.0, False), (-3.0, False), (-4.0, False), (-2.0, False)]
        assert answerer.contexts == ["a", "c"]
        assert told == [1, 2]
        assert model.loglikelihood_rolling(requests("loglikelihood_rolling", ("abcd",))) == [-4.0]


def test_answers_end_at_any_stop_text(tmp_path: Path) -> None:
    answerer = Counter()
    with Journal(tmp_path / "answers.jsonl", {}) as journal:
        model = HarnessModel(answerer, journal)
        options = {"until": ["</s>", "Q", "\n\n"], "max_gen_toks": 12}
        asked = requests(
            "generate_until",
            ("yes\nQ: no", options),
            ("one. two", {"until": "."}),
            ("far too long for it", options),
        )
        assert model.generate_until(asked) == ["yes", "one", "far too long"]
        assert answerer.stops == ["\n\n", "."]
        assert model.finished == {
            "yes\nQ: no": True,
            "one. two": True,
            "far too long for it": False,
        }
        with pytest.raises(ValueError, match="only greedy"):
            model.generate_until(requests("generate_until", ("x", {"do_sample": True})))


def test_cut() -> None:
    assert cut(" a b.c,d ", [",", "."]) == "a b"
    assert cut("a", [""]) == "a"


def test_the_harness_has_the_tasks() -> None:
    assert len(known_tasks("mmlu/default")) == 57
    assert len(known_tasks("bbh/fewshot")) == 27
    assert known_tasks("drop") == ["drop"]
