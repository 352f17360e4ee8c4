"""The rounds of a benchmark: prompts made, asked, judged; what is finished is never asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.errors import UserError
from vila_core.eval import judge as judging
from vila_core.eval.answerer import Answer
from vila_core.eval.fewshot import Demonstrator
from vila_core.eval.journal import Journal
from vila_core.eval.prompts import chat_prompt, plain_prompt
from vila_core.eval.records import BLIND
from vila_core.eval.replies import Replies
from vila_core.eval.results import TEXT_DEMOS, Answered, Round
from vila_core.eval.scorers.options import letters

if TYPE_CHECKING:
    from vila_core.eval.answerer import Answerer
    from vila_core.eval.benchmark import Benchmark, Question
    from vila_core.eval.files import ImageRef
    from vila_core.eval.judge import Judge, Judgement
    from vila_core.eval.prompts import Prompt
    from vila_core.stages.benchmark import Demonstrations
    from vila_core.types import Reporter


_WORKERS = 8
"""Requests to a judge at a time."""


class Session:
    """One benchmark with one model."""

    def __init__(
        self,
        bench: Benchmark,
        questions: Sequence[Question],
        answerer: Answerer,
        out_dir: Path,
        report: Reporter,
    ) -> None:
        self._bench = bench
        self._questions = questions
        self._answerer = answerer
        self._report = report
        self._out_dir = out_dir
        self._digests: dict[ImageRef, bytes] = {}
        if not self._answerer.sees and any(_images(question) for question in questions):
            raise UserError(
                f"{bench.name}: the model can't see images; evaluate one with a vision tower"
            )

    @property
    def model(self) -> dict[str, str]:
        """What identifies the model in the result."""
        return self._answerer.describe()

    def demonstrator(
        self, pool: Sequence[Question], config: Demonstrations, opener: Callable[[], Answerer]
    ) -> Demonstrator:
        """Return what chooses demonstrations; RICES compares images by the model of `opener`.

        Raises UserError for RICES with a model that shows no vision tower.
        """
        if config.how == "random":
            return Demonstrator(pool, size=config.pool, known=self._digests)
        embed = getattr(opener(), "embed", None)
        if embed is None:
            raise UserError(
                "demos.how: rices compares images by the model's own vision tower, and this model "
                "shows none; use random"
            )
        return Demonstrator(pool, how="rices", size=None, embed=embed, known=self._digests)

    def ask(
        self,
        rounds: Sequence[Round],
        demonstrator: Demonstrator | None,
        layout: str,
        *,
        by_likelihood: bool,
    ) -> list[Answered]:
        """Ask every round, and return the answers, not graded yet."""
        if by_likelihood and not self._bench.likelihood:
            raise UserError(f"by_likelihood: {self._bench.name} has no options to rank")
        total = len(rounds) * len(self._questions)
        found: list[Answered] = []
        with Journal(self._out_dir / "answers.jsonl", self.model) as journal:
            for round_ in rounds:
                prompts = [
                    self._answerer.written(prompt)
                    for prompt in self._prompts(round_, demonstrator, layout)
                ]
                digests = [prompt.digest(self._digests) for prompt in prompts]
                ask = self._ranked if by_likelihood else self._answers
                answers: dict[int, Answer] = {}
                for batch in ask(journal, prompts, digests, round_.condition == BLIND):
                    answers.update(batch)
                    done = len(found) * len(self._questions) + len(answers)
                    self._report.progress(done, total, "answers")
                ordered = [answers[number] for number in range(len(prompts))]
                found.append(Answered(round_, ordered, digests, ()))
        return found

    def _answers(
        self, journal: Journal, prompts: Sequence[Prompt], digests: Sequence[str], blind: bool
    ) -> Iterator[list[tuple[int, Answer]]]:
        return journal.answers(
            self._answerer,
            prompts,
            digests,
            max_new_tokens=self._bench.max_new_tokens,
            stop=None if prompts[0].turns else self._bench.plain_stop,
            blind=blind,
        )

    def _ranked(
        self, journal: Journal, prompts: Sequence[Prompt], digests: Sequence[str], blind: bool
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Answer with the option's letter that is the likeliest to come next."""
        named = [letters(len(question.choices)) for question in self._questions]
        choices = [
            [name if prompt.text[-1:].isspace() else f" {name}" for name in names]
            for prompt, names in zip(prompts, named, strict=True)
        ]
        for batch in journal.likelihoods(self._answerer, prompts, choices, digests, blind=blind):
            yield [
                (number, Answer(named[number][max(range(len(nats)), key=nats.__getitem__)], True))
                for number, nats in batch
            ]

    def _prompts(
        self, round_: Round, demonstrator: Demonstrator | None, layout: str
    ) -> list[Prompt]:
        demos: Sequence[Sequence[Any]] = [()] * len(self._questions)
        if demonstrator is not None:
            demos = demonstrator.demonstrations(
                self._questions,
                round_.shots,
                seed=round_.seed,
                order=round_.order,
                text_only=round_.condition == TEXT_DEMOS,
            )
        pairs = zip(self._questions, demos, strict=True)
        if layout == "chat":
            return [chat_prompt(question.case, its, question.where) for question, its in pairs]
        end = self._bench.plain_stop
        return [plain_prompt(question.case, its, end, question.where) for question, its in pairs]


class Judged:
    """Grades answers: by the benchmark itself, or by a judge where it needs one."""

    def __init__(
        self, bench: Benchmark, judge: Judge | None, out_dir: Path, report: Reporter
    ) -> None:
        self._bench = bench
        self._judge = judge if bench.judged else None
        self._kept = out_dir / "judge.jsonl"
        self._report = report
        self._judgements: list[Judgement] = []
        self._on = datetime.now(UTC).date()

    @property
    def missing(self) -> str | None:
        """What is missing for a score, None where nothing is."""
        if self._bench.judged and self._judge is None:
            return judging.without_judge(self._bench)
        return None

    def graded(self, questions: Sequence[Question], answered: Answered) -> Answered:
        """Return a round with the grades of its answers. Raises UserError for a judge that can't
        be asked; what it said so far is kept.
        """
        texts = [answer.text for answer in answered.answers]
        rubric = self._bench.rubric
        if rubric is None:
            return replace(answered, grades=self._bench.grade(questions, texts))
        if self._judge is None:
            return replace(answered, grades=judging.unjudged(texts))
        self._report.info(f"the judge scores {len(texts):,} answers")
        with Replies(self._kept) as replies:
            judged = judging.judgements(
                rubric, self._judge, questions, texts, replies, workers=_WORKERS
            )
        self._judgements += judged
        return replace(answered, grades=judging.grades(rubric, texts, judged))

    def record(self) -> dict[str, Any] | None:
        """Return what the result says about the judge."""
        if self._judge is None or self._bench.rubric is None:
            return None
        return judging.record(self._bench.rubric, self._judge, self._judgements, self._on)

    def reviews(self, questions: Sequence[Question]) -> dict[str, bytes]:
        """Return the file with everything that the judge was asked and said, of the first round."""
        if self._judge is None:
            return {}
        first = self._judgements[: len(questions)]
        return {"reviews.jsonl": judging.reviews(questions, first, self._judge, self._on)}


def _images(question: Question) -> bool:
    return any(not isinstance(part, str) for part in question.case.parts)
