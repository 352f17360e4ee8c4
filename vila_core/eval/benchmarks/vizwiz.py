"""VizWiz: questions that blind people spoke about their own photos (Gurari et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.vqa_format import folder_of
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.vqa import normalise, vqa_normalise

_SPLITS = ("test", "val", "train")
_UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
_INSTRUCTION = f"{_UNANSWERABLE}\n{short.SHORT_ANSWER}"
_ENOUGH = 3  # people who agree make an answer fully right


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of a split, one per image; those of `test` have no answers."""
    split = fields.split_of(options, "vizwiz", _SPLITS)
    names = [f"{split}.json", f"Annotations/{split}.json"]
    name = files.first(*names, *(["llava_test.jsonl"] if split == "test" else []))
    extra = {"layout": options.layout, "split": split}
    images = folder_of(files, split)
    questions: list[Question] = []
    for where, record in _records(files, name):
        picture = fields.text(record, "image", where)
        if name.endswith(".jsonl"):
            text = fields.text(record, "text", where).removesuffix(f"\n{_INSTRUCTION}")
        else:
            text = fields.text(record, "question", where)
        answers = [] if split == "test" else fields.objects(record, "answers", where)
        if split != "test" and not answers:
            raise UserError(f"{where}: {picture} has no answers; download {name} again")
        references = tuple(fields.text(answer, "answer", where) for answer in answers)
        image = images.image(picture, where)
        questions.append(
            Question(
                picture,
                Case(short.ask(image, text, options, _INSTRUCTION), short.most_common(references)),
                references,
                type=fields.slug(str(record.get("answer_type", "all"))),
                extra=extra,
                where=where,
            )
        )
    return unique(questions)


def _records(files: Files, name: str):
    if name.endswith(".jsonl"):
        return list(files.jsonl(name))
    records = files.json(name)
    whole = files.where(name)
    if not isinstance(records, list):
        raise UserError(
            f"{whole}: a list of questions is needed, found {type(records).__name__}; this is the "
            "file of another version (January 2020 is read), or not VizWiz's"
        )
    return [
        (f"{whole}: [{at}]", fields.mapping(record, f"{whole}: [{at}]"))
        for at, record in enumerate(records)
    ]


def vizwiz_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the soft accuracy (0 to 1) as VizWiz's vqaEval.py computes it.

    As VQAv2's, but the answer is always normalised and the people's answers never are.
    """
    answer = vqa_normalise(answer)
    same = sum(answer == reference for reference in references)
    others = [same - (answer == reference) for reference in references]
    return short.mean(min(1.0, matches / _ENOUGH) for matches in others)


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Score what would be submitted: the normalised answer."""
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        parsed = normalise(short.said(question, answer))
        references = question.references
        grades.append(Grade(parsed, vizwiz_accuracy(parsed, references) if references else None))
    return grades


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the file for EvalAI: one normalised answer per image."""
    graded = grade(questions, answers)
    results = [
        {"image": question.key, "answer": each.parsed}
        for question, each in zip(questions, graded, strict=True)
    ]
    return {f"vizwiz_{questions[0].extra['split']}_results.json": short.as_json(results)}


BENCHMARK = Benchmark(
    name="vizwiz",
    title="VizWiz-VQA",
    version="1",
    source="vizwiz.org/tasks-and-datasets/vqa, with its scorer; server eval.ai, challenge 2185",
    files=(
        FileSpec("{test,val,train}.json", "questions, and answers except for test"),
        FileSpec("llava_test.jsonl", "LLaVA's questions, in place of test.json", ("test",)),
        FileSpec("{test,val,train}/VizWiz_….jpg", "images"),
    ),
    splits=_SPLITS,
    train_split="train",
    read=read,
    grade=grade,
    metrics=short.accuracies,
    headline="accuracy",
    headline_unit="%",
    prompt=(
        f"`<image>↵{{question}}↵{_UNANSWERABLE}↵{short.SHORT_ANSWER}`; plain: {short.PLAIN_PROMPT}"
    ),
    max_new_tokens=128,
    submission=submission,
    scoring=(
        "The answer is normalised (EvalAIAnswerProcessor), as LLaVA does before it submits, then "
        "scored by VizWiz's own soft accuracy: VQAv2's, but people's answers are compared as they "
        "are written. `accuracy/<type>`: unanswerable, other, yes_no, number. The test split is "
        "scored by the server only."
    ),
    disagreements=(
        "The paper reports test-dev of the server. lmms-eval scores val by VQAv2's rules, which "
        "also normalise people's answers where they differ. LLaVA's documents name challenge 1911, "
        "its successor is 2185."
    ),
)
