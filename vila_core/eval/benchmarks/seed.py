"""SEED-Bench (the first): nine tasks on images, three on the middle frames of videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import (
    LETTER,
    ImageFolder,
    by_type,
    letter_grades,
    letter_parts,
    one_of,
    option_lines,
    scored,
)
from vila_core.eval.benchmarks.short_answer import mean
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.options import strict_letter

_FILE = "SEED-Bench.json"
_LETTERS = "ABCD"


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of images, of videos, or all, in the order of the file."""
    content = files.json(_FILE)
    place = files.where(_FILE)
    rows, types = _parts(content, place)
    images = ImageFolder(files, ("SEED-Bench-image", ""))
    frames = ImageFolder(files, ("SEED-Bench-video-image", ""))
    questions: list[Question] = []
    for number, row in enumerate(rows, start=1):
        where = f"{place}: question {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON object is needed; download the file again")
        key = fields.name(row, "question_id", where)
        kind = one_of(row, "data_type", ("image", "video"), where)
        if options.split not in ("all", kind):
            continue
        task = types.get(row.get("question_type_id"))
        if task is None:
            raise UserError(
                f"{where}: question_type_id is {row.get('question_type_id')!r}, which the file's "
                "question_type does not name; download the file again"
            )
        if kind == "image":
            image = images.image(fields.text(row, "data_id", where), where)
        else:
            image = frames.image(f"{row['question_type_id']}_{key}.png", where)
        choices = tuple(fields.name(row, f"choice_{letter}", where) for letter in "abcd")
        answer = one_of(row, "answer", _LETTERS, where)
        asked = f"{fields.text(row, 'question', where)}\n{option_lines(choices)}"
        questions.append(
            Question(
                key=key,
                case=Case(letter_parts([image], asked, options), answer),
                references=(answer,),
                choices=choices,
                type=fields.slug(task),
                extra={"data_type": kind},
                where=where,
            )
        )
    return unique(questions)


def _parts(content: Any, place: str) -> tuple[list[Any], dict[Any, str]]:
    rows = content.get("questions") if isinstance(content, Mapping) else None
    types = content.get("question_type") if isinstance(content, Mapping) else None
    if not isinstance(rows, list) or not isinstance(types, Mapping):
        raise UserError(
            f"{place}: 'questions' and 'question_type' are needed; download the official file again"
        )
    if any(isinstance(row, Mapping) and "subpart" in row for row in rows[:1]):
        raise UserError(
            f"{place}: is SEED-Bench-2; put the file of SEED-Bench-1 there ({BENCHMARK.source})"
        )
    return rows, {number: str(name) for name, number in types.items()}


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return right for the letter and nothing else."""
    return letter_grades(questions, [strict_letter(a.strip(), _LETTERS) for a in answers])


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return the accuracy over all questions, over images, over videos, and per task."""
    each = scored(questions, grades)
    found = {"accuracy": mean(score for _, _, score in each)}
    found |= by_type("accuracy", ((q.extra["data_type"], score) for q, _, score in each))
    return found | by_type("accuracy", ((q.type, score) for q, _, score in each))


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the leaderboard's file: question_id and prediction, a line each."""
    rows = (
        {"question_id": question.key, "prediction": answer.strip()}
        for question, answer in zip(questions, answers, strict=True)
    )
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {"seed_bench.jsonl": "".join(lines).encode()}


BENCHMARK = Benchmark(
    name="seed",
    title="SEED-Bench (1)",
    version="1",
    source="https://github.com/AILab-CVC/SEED-Bench (DATASET.md, SEED-Bench-1)",
    files=(
        FileSpec(_FILE, "questions with four choices, and the names of the twelve tasks"),
        FileSpec("SEED-Bench-image/<data_id>", "images of tasks 1 to 9", ("all", "image")),
        FileSpec(
            "SEED-Bench-video-image/<task>_<question_id>.png",
            "middle frames of the videos of tasks 10 to 12, named as LLaVA's script names them",
            ("all", "video"),
        ),
    ),
    splits=("all", "image", "video"),
    train_split=None,
    read=read,
    grade=grade,
    metrics=metrics,
    headline="accuracy",
    headline_unit="%",
    prompt=(
        f"`<image>↵{{question}}↵A. …↵B. …↵C. …↵D. …↵{LETTER}`; plain: the same with `Answer:` as "
        "the last line"
    ),
    max_new_tokens=128,
    submission=submission,
    likelihood=True,
    scoring=(
        "Right if the answer, blanks around it aside, is the letter and nothing else. Accuracy "
        "over all questions, over images, over videos and per task."
    ),
    disagreements=(
        "LLaVA's script (used here) wants the letter and nothing else: 'A.' is wrong; lmms-eval "
        "takes the first character; the official eval.py ranks the choices by likelihood. The "
        "paper's column is over images and videos; others report images alone (`accuracy/image`)."
    ),
)
