"""MMMU: college questions of thirty subjects, with up to seven images in one question."""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import (
    LETTER,
    by_type,
    embedded,
    lines_of,
    one_of,
    parquet_files,
    scored,
)
from vila_core.eval.benchmarks.short_answer import SHORT_ANSWER, mean
from vila_core.eval.files import Files, ImageRef
from vila_core.eval.items import Case
from vila_core.eval.scorers.options import letters, mmmu_answer, mmmu_open_match

DOMAINS = {
    "Art_and_Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health_and_Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities_and_Social_Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech_and_Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""The subjects by domain, as MMMU's main_eval_only.py has them."""

CHOICE, OPEN = "multiple-choice", "open"
_DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
_ANSWER_FILES = {"validation": "answer_dict_val.json", "test": "answer_dict_test.json"}
_HIDDEN = ("", "?")
_IMAGE = re.compile(r"<image (\d)>")
_SEED = 42  # the official code's, for answers that name no option


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions, subjects in the order of the alphabet."""
    questions: list[Question] = []
    for subject in sorted(_DOMAIN_OF):
        for where, row in _rows(files, subject, options.split):
            questions.append(_question(files, subject, row, options, where))
    questions = unique(questions)
    name = _ANSWER_FILES.get(options.split)
    if name is not None and files.exists(name):
        _compare(questions, files.json(name, unique=True), files.where(name))
    return questions


def _rows(files: Files, subject: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = f"{subject}/{split}.jsonl"
    if files.exists(lines):
        yield from files.jsonl(lines)
        return
    for name in parquet_files(files, subject, split):
        yield from files.parquet(name)


def _question(
    files: Files, subject: str, row: dict[str, Any], options: Options, where: str
) -> Question:
    kind = one_of(row, "question_type", (CHOICE, OPEN), where)
    asked = fields.text(row, "question", where)
    choices = _texts(row.get("options")) if kind == CHOICE else []
    if choices is None:
        raise UserError(
            f"{where}: the field 'options' is no list of texts; download the file again"
        )
    if kind == CHOICE and len(choices) < 2:
        raise UserError(f"{where}: has fewer than two options; download the file again")
    numbers = [number for part in (asked, *choices) for number in _IMAGE.findall(part)]
    images = [_image(files, subject, row, f"image_{number}", where) for number in numbers]
    asked, choices = _IMAGE.sub("", asked), [_IMAGE.sub("", choice) for choice in choices]
    last = "Answer:" if options.layout == "plain" else ""
    if kind == CHOICE:
        lines = "".join(
            f"({letter}) {choice}\n"
            for letter, choice in zip(letters(len(choices)), choices, strict=True)
        )
        prompt = f"{asked}\n\n{lines}\n\n{last or LETTER}"
    else:
        prompt = f"{asked}\n\n{last or SHORT_ANSWER}"
    answer = row.get("answer")
    references = [] if answer is None or answer in _HIDDEN else _references(answer)
    for reference in references if kind == CHOICE else ():
        if reference not in letters(len(choices)):
            raise UserError(
                f"{where}: the answer '{reference}' names none of the {len(choices)} options; "
                "download the file again"
            )
    return Question(
        key=fields.text(row, "id", where),
        case=Case((*lines_of(images), prompt.strip()), references[0] if references else ""),
        references=tuple(references),
        choices=tuple(choices),
        type=subject,
        extra={"kind": kind, "domain": _DOMAIN_OF[subject]},
        where=where,
    )


def _image(files: Files, subject: str, row: dict[str, Any], name: str, where: str) -> ImageRef:
    cell = row.get(name)
    if isinstance(cell, str):  # JSON lines name a file
        return files.image(f"{subject}/{cell}", where)
    return embedded(cell, name, where)


def _texts(value: Any) -> list[str] | None:
    """Return a list of texts, which the official files write as Python does; None for others."""
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    good = isinstance(found, list) and all(isinstance(each, str) for each in found)
    return found if good else None


def _references(answer: Any) -> list[str]:
    """Return the answers that count: one, or a list. "[0, 1]" is an interval, and one answer."""
    return _texts(answer) or [str(answer)]


def _compare(questions: Sequence[Question], answers: Any, place: str) -> None:
    """Raise UserError where the official answers are of another version than the questions."""
    if not isinstance(answers, Mapping):
        raise UserError(f"{place}: a JSON object of answers by id is needed")
    for question in questions:
        entry = answers.get(question.key)
        if not isinstance(entry, Mapping):
            raise UserError(
                f"{place}: has no answer to '{question.key}' of {question.where}; both files must "
                "be of one version of MMMU: download them again"
            )
        if not question.references:
            continue
        truth = entry.get("ground_truth")
        if set(_references(truth)) != set(question.references):
            raise UserError(
                f"{place}: the answer to '{question.key}' is {truth!r}, but {question.where} says "
                f"{list(question.references)}; both files must be of one version of MMMU: download "
                "them again"
            )


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return right or wrong by the official parsing; an unclear choice is drawn, as there.

    The draw has the official seed and runs over the questions in their order.
    """
    draw = random.Random(_SEED)
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        known = bool(question.references)
        if question.extra["kind"] == OPEN:
            right = mmmu_open_match(answer, question.references)
            grades.append(Grade(answer.strip(), float(right) if known else None))
            continue
        named = mmmu_answer(answer, question.choices)
        letter = named or mmmu_answer(answer, question.choices, draw) or ""
        grades.append(
            Grade(
                letter,
                float(letter in question.references) if known else None,
                {"drawn": named is None},
            )
        )
    return grades


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return the accuracy over all questions, per domain and per subject.

    `strict_accuracy` counts drawn choices as wrong; `drawn` is their share.
    """
    each = scored(questions, grades)
    if not each:
        return {}
    drawn = [bool(grade.detail.get("drawn")) for _, grade, _ in each]
    found = {
        "accuracy": mean(score for _, _, score in each),
        "strict_accuracy": mean(
            0.0 if by_lot else score for (_, _, score), by_lot in zip(each, drawn, strict=True)
        ),
        "drawn": mean(map(float, drawn)),
    }
    found |= by_type("accuracy", ((q.extra["domain"], score) for q, _, score in each))
    return found | by_type("accuracy", ((q.type, score) for q, _, score in each))


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the official output file: the letter, or an open answer's text, by id."""
    parsed = {
        question.key: each.parsed
        for question, each in zip(questions, grade(questions, answers), strict=True)
    }
    return {"mmmu.json": (json.dumps(parsed, indent=4, ensure_ascii=False) + "\n").encode()}


BENCHMARK = Benchmark(
    name="mmmu",
    title="MMMU",
    version="1",
    source="https://github.com/MMMU-Benchmark/MMMU; files: huggingface.co/datasets/MMMU/MMMU",
    files=(
        FileSpec(
            "<Subject>/<split>-*-of-*.parquet",
            "the thirty subjects as published, images inside; or `<Subject>/<split>.jsonl` with "
            "the same fields, image_1 … naming files below `<Subject>/`",
        ),
        FileSpec(
            "answer_dict_val.json",
            "official answers; optional, compared with the questions' own",
            ("validation",),
        ),
    ),
    splits=("validation", "dev", "test"),
    train_split="dev",
    read=read,
    grade=grade,
    metrics=metrics,
    headline="accuracy",
    headline_unit="%",
    prompt=(
        "`<image>↵` for each image, in the order in which the question and then its options name "
        f"them; `{{question}}↵↵(A) …↵(B) …↵↵↵{LETTER}`, or `{{question}}↵↵{SHORT_ANSWER}` where it "
        "is open; `<image 1>` and the like are taken out of the text; plain: the same with "
        "`Answer:` as the last line"
    ),
    max_new_tokens=1024,
    submission=submission,
    scoring=(
        "Choice: the last letter in parentheses, else the last one between blanks, else (in "
        "answers of more than five words) the last option whose text stands in it, else a drawn "
        "one. Open: numbers to two decimals, or a reference inside a key part of the answer. "
        "Accuracy over questions."
    ),
    disagreements=(
        "VILA puts all images before the text (done here), the first official LLaVA script shows "
        "one image only, later harnesses put each image where the text names it. The official "
        "parser draws a letter where an answer names none (seed 42, here over the questions in "
        "order; each tool's draws differ): `strict_accuracy` has no luck in it. VLMEvalKit turns "
        "open questions into choices. VILA-1.5 ran MMMU with 5 beams; here decoding is greedy."
    ),
)
