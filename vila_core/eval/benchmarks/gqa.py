"""GQA: compositional questions made from scene graphs (Hudson and Manning 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.official import ImageFolder
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.exact import gqa_answer

_FILES = {
    "testdev": "testdev_balanced_questions.json",
    "val": "val_balanced_questions.json",
    "submission": "submission_all_questions.json",
    "train": "train_balanced_questions.json",
}


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of a split; those of `submission` have no answers."""
    split = fields.split_of(options, "gqa", tuple(_FILES))
    name = files.first(_FILES[split], f"questions1.2/{_FILES[split]}")
    extra = {"layout": options.layout, "split": split}
    images = ImageFolder(files, ("images", ""))
    questions: list[Question] = []
    for key, where, record in _records(files, name):
        picture = f"{fields.name(record, 'imageId', where)}.jpg"
        answer = "" if split == "submission" else fields.text(record, "answer", where)
        types = record.get("types", {})
        kind = str(types.get("structural", "all")) if isinstance(types, dict) else "all"
        text = fields.text(record, "question", where)
        image = images.image(picture, where)
        questions.append(
            Question(
                key,
                Case(short.ask(image, text, options), answer),
                (answer,) if answer else (),
                type=fields.slug(kind),
                unit=picture,
                extra=extra,
                where=where,
            )
        )
    return unique(questions)


def _records(files: Files, name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    whole = files.where(name)
    for key, record in fields.mapping(files.json(name, unique=True), whole).items():
        where = f"{whole}: question {key}"
        yield key, where, fields.mapping(record, where)


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Compare the answer, in lower case and without its last period, to the letter."""
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        parsed = gqa_answer(short.said(question, answer))
        references = question.references
        grades.append(Grade(parsed, float(parsed in references) if references else None))
    return grades


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return the accuracies, also over open and binary questions as the official eval.py has it."""
    found = short.accuracies(questions, grades)
    for name, is_open in (("open", True), ("binary", False)):
        scores = [
            each.score
            for question, each in zip(questions, grades, strict=True)
            if each.score is not None and (question.type == "query") is is_open
        ]
        if scores:
            found[f"accuracy/{name}"] = short.mean(scores)
    return found


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the predictions, as eval.py and the server read them."""
    graded = grade(questions, answers)
    results = [
        {"questionId": question.key, "prediction": each.parsed}
        for question, each in zip(questions, graded, strict=True)
    ]
    return {f"gqa_{questions[0].extra['split']}_predictions.json": short.as_json(results)}


BENCHMARK = Benchmark(
    name="gqa",
    title="GQA",
    version="1",
    source="cs.stanford.edu/people/dorarad/gqa (questions 1.2), with its eval.py",
    files=(
        FileSpec("testdev_balanced_questions.json", "questions and answers", ("testdev",)),
        FileSpec("val_balanced_questions.json", "questions and answers", ("val",)),
        FileSpec("train_balanced_questions.json", "questions and answers", ("train",)),
        FileSpec("submission_all_questions.json", "questions for the server", ("submission",)),
        FileSpec("images/….jpg", "images"),
    ),
    splits=tuple(_FILES),
    train_split="train",
    read=read,
    grade=grade,
    metrics=metrics,
    headline="accuracy",
    headline_unit="%",
    prompt=f"{short.CHAT_PROMPT}; plain: {short.PLAIN_PROMPT}",
    max_new_tokens=128,
    submission=submission,
    scoring=(
        "Lower case, closing periods off (LLaVA's converter), then equal to the answer to the "
        "letter (eval.py). `accuracy/open` are questions of the structural type query, "
        "`accuracy/binary` all others, as in eval.py; also by structural type."
    ),
    disagreements=(
        "eval.py's consistency, validity, plausibility and distribution need files that version "
        "1.2 lacks, and are not computed. lmms-eval's exact match ignores case and punctuation. "
        "LLaVA's llava_gqa_testdev_balanced.jsonl asks the same questions in the same words, and "
        "is not needed."
    ),
)
