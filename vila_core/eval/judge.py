"""Answers that another model scores: what it is asked, how its replies are read, what is recorded.

A reply that can't be read as a score is a failed judgement: it is counted and left out of every
mean. (LLaVA's script averages it in as -1, MM-Vet's as 0.)
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

from vila_core.jsonio import digest, dumps

if TYPE_CHECKING:
    from vila_core.eval.benchmark import Benchmark, Grade, Question


class Judge(Protocol):
    """A model that is asked in words about an answer, for example an OpenAI-compatible endpoint."""

    def describe(self) -> dict[str, str]:
        """Return what identifies it in a result: at least `name`."""
        ...

    def judge(self, prompt: str, *, system: str, temperature: float, max_new_tokens: int) -> str:
        """Return the reply, as text.

        Raises UserError for a judge that refuses the request or stays out of reach; what it has
        said so far is kept.
        """
        ...


@dataclass(frozen=True)
class Rubric:
    """How a benchmark has its answers judged, as its authors published it.

    `prompt` makes the request from a question and the model's answer; it raises UserError where an
    official file that holds the wording is missing. `read` returns the scores in a reply, on the
    benchmark's own scale, or None. `score` puts them on 0 to 1. A reply that can't be read is asked
    for again, with `again` after the prompt, once per further temperature. `published` is the judge
    that published numbers come from.
    """

    prompt: Callable[[Question, str], str]
    read: Callable[[str], tuple[float, ...] | None]
    score: Callable[[tuple[float, ...]], float]
    published: str
    system: str = ""
    temperatures: tuple[float, ...] = (0.0,)
    again: str = ""
    max_new_tokens: int = 1024


@dataclass(frozen=True)
class Judgement:
    """What the judge said about one answer; `scores` is None for a failed judgement."""

    prompt: str
    reply: str
    scores: tuple[float, ...] | None
    tries: int


def judgements(
    rubric: Rubric,
    judge: Judge,
    questions: Sequence[Question],
    answers: Sequence[str],
    kept: MutableMapping[str, str],
    *,
    workers: int = 1,
) -> list[Judgement]:
    """Ask the judge about every answer, and return what it said, in the order of the questions.

    `kept` holds replies by the digest of their request; what stands there is not asked again, and
    each new reply is put there as it comes. `workers` requests run at a time. Raises UserError when
    the judge can't be asked; the replies so far are then in `kept`.
    """
    prompts = [
        rubric.prompt(question, answer) for question, answer in zip(questions, answers, strict=True)
    ]
    asked = _Asked(rubric, judge, kept)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(asked, prompt) for prompt in prompts]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Asked:
    """Asks one prompt until the reply can be read, or the tries are used up."""

    def __init__(self, rubric: Rubric, judge: Judge, kept: MutableMapping[str, str]) -> None:
        self._rubric = rubric
        self._judge = judge
        self._kept = kept
        self._name = judge.describe()
        self._lock = threading.Lock()

    def __call__(self, prompt: str) -> Judgement:
        rubric = self._rubric
        reply = ""
        for tries, temperature in enumerate(rubric.temperatures, start=1):
            text = prompt if tries == 1 else prompt + rubric.again
            reply = self._reply(text, temperature, tries)
            scores = rubric.read(reply)
            if scores is not None:
                return Judgement(prompt, reply, scores, tries)
        return Judgement(prompt, reply, None, len(rubric.temperatures))

    def _reply(self, prompt: str, temperature: float, tries: int) -> str:
        rubric = self._rubric
        key = digest([self._name, rubric.system, rubric.max_new_tokens, temperature, tries, prompt])
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        reply = self._judge.judge(
            prompt,
            system=rubric.system,
            temperature=temperature,
            max_new_tokens=rubric.max_new_tokens,
        )
        with self._lock:
            self._kept[key] = reply
        return reply


def grades(rubric: Rubric, answers: Sequence[str], judged: Sequence[Judgement]) -> list[Grade]:
    """Return the judgements as grades: `detail` holds the scores as the judge gave them."""
    from vila_core.eval.benchmark import Grade

    return [
        Grade(
            parsed=answer.strip(),
            score=None if each.scores is None else rubric.score(each.scores),
            detail={
                "scores": None if each.scores is None else list(each.scores),
                "reply": each.reply,
                "tries": each.tries,
            },
        )
        for answer, each in zip(answers, judged, strict=True)
    ]


def unjudged(answers: Sequence[str]) -> list[Grade]:
    """Return grades without scores, for answers that no judge has seen."""
    from vila_core.eval.benchmark import Grade

    return [Grade(answer.strip(), None) for answer in answers]


def record(rubric: Rubric, judge: Judge, judged: Sequence[Judgement], on: date) -> dict[str, Any]:
    """Return what a result must say about its judge; numbers of another one don't compare.

    The prompts themselves stand in the file that `reviews` makes; here is one digest over all.
    """
    total = hashlib.sha256()
    for each in judged:
        total.update(hashlib.sha256(each.prompt.encode()).digest())
    return {
        "judge": judge.describe(),
        "date": on.isoformat(),
        "system": rubric.system,
        "temperatures": list(rubric.temperatures),
        "max_new_tokens": rubric.max_new_tokens,
        "prompts_sha256": total.hexdigest(),
        "judgements": len(judged),
        "failed": sum(each.scores is None for each in judged),
        "published_judge": rubric.published,
    }


def reviews(
    questions: Sequence[Question], judged: Sequence[Judgement], judge: Judge, on: date
) -> bytes:
    """Return a line of JSON per question: full prompt, reply, scores, judge and date."""
    lines = (
        dumps(
            {
                "key": question.key,
                "judge": judge.describe(),
                "date": on.isoformat(),
                "prompt": each.prompt,
                "reply": each.reply,
                "scores": None if each.scores is None else list(each.scores),
                "tries": each.tries,
            }
        )
        for question, each in zip(questions, judged, strict=True)
    )
    return "".join(line + "\n" for line in lines).encode()


def without_judge(benchmark: Benchmark) -> str:
    """Return what is missing in a result whose answers nobody has judged."""
    published = benchmark.rubric.published if benchmark.rubric else "a judge model"
    return (
        f"{benchmark.name}: the answers are written but have no score, since a judge is missing; "
        f"name an OpenAI-compatible endpoint as the judge (published numbers: {published}), or "
        f"score the submission file with the official script: {benchmark.source}"
    )
