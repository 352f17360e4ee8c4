"""BLINK: fourteen tasks of perception, many with several images in one question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import (
    LETTER,
    by_type,
    embedded,
    letter_grades,
    letter_parts,
    parquet_files,
    scored,
)
from vila_core.eval.benchmarks.short_answer import mean
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.options import infer_option, letters

TASKS = (
    "Art_Style",
    "Counting",
    "Forensic_Detection",
    "Functional_Correspondence",
    "IQ_Test",
    "Jigsaw",
    "Multi-view_Reasoning",
    "Object_Localization",
    "Relative_Depth",
    "Relative_Reflectance",
    "Semantic_Correspondence",
    "Spatial_Relation",
    "Visual_Correspondence",
    "Visual_Similarity",
)
_HIDDEN = ("hidden", "")
_MOST_IMAGES = 4


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of all tasks, images in their numbered order."""
    questions = [
        _question(task, row, where, options)
        for task in TASKS
        for name in parquet_files(files, task, options.split)
        for where, row in files.parquet(name)
    ]
    return unique(questions)


def _question(task: str, row: dict[str, Any], where: str, options: Options) -> Question:
    key, split = fields.text(row, "idx", where), options.split
    if not key.startswith(f"{split}_{task}_"):
        raise UserError(
            f"{where}: the idx '{key}' is not of the task {task} and the split '{split}'; put each "
            "file into its own task's folder"
        )
    names = [f"image_{number}" for number in range(1, _MOST_IMAGES + 1)]
    images = [embedded(row[name], name, where) for name in names if row.get(name) is not None]
    choices = row.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{where}: the field 'choices' is no list; download the file again")
    answer = fields.text(row, "answer", where).strip("()")
    hidden = answer in _HIDDEN
    if not hidden and answer not in letters(len(choices)):
        raise UserError(
            f"{where}: the answer '({answer})' names none of the {len(choices)} choices; download "
            "the file again"
        )
    if not images:
        raise UserError(f"{where}: holds no image; download the file again")
    asked = fields.text(row, "prompt", where).strip()
    return Question(
        key=key,
        case=Case(letter_parts(images, asked, options), "" if hidden else answer),
        references=() if hidden else (answer,),
        choices=tuple(str(choice) for choice in choices),
        type=task,
        where=where,
    )


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return right or wrong by the letter, or the text of one choice; no judge is asked."""
    parsed = [
        infer_option(answer.strip(), question.choices)
        for question, answer in zip(questions, answers, strict=True)
    ]
    return letter_grades(questions, parsed)


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return each task's accuracy, their mean (the official total), and that over all questions."""
    each = scored(questions, grades)
    if not each:
        return {}
    tasks = by_type("accuracy", ((question.type, score) for question, _, score in each))
    return {
        "accuracy": mean(tasks.values()),
        "pooled_accuracy": mean(score for _, _, score in each),
        **tasks,
    }


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the official prediction file: "(A)" by idx, "(Z)" where no choice is named."""
    graded = grade(questions, answers)
    found = {q.key: f"({each.parsed or 'Z'})" for q, each in zip(questions, graded, strict=True)}
    return {"blink.json": (json.dumps(found, indent=4) + "\n").encode()}


BENCHMARK = Benchmark(
    name="blink",
    title="BLINK (one to four images)",
    version="1",
    source=(
        "https://github.com/zeyofu/BLINK_Benchmark (eval/); files: "
        "huggingface.co/datasets/BLINK-Benchmark/BLINK"
    ),
    files=(
        FileSpec(
            "<Task>/<split>-*-of-*.parquet",
            "questions, choices, images of the fourteen tasks, as published; the answers of the "
            "split test are hidden, its server scores",
        ),
    ),
    splits=("val", "test"),
    train_split=None,
    read=read,
    grade=grade,
    metrics=metrics,
    headline="accuracy",
    headline_unit="%, mean of the fourteen tasks",
    prompt=(
        f"`<image>↵` for each image, in order; `{{prompt}}↵{LETTER}`, the official prompt with the "
        "choices in it; plain: the same with `Answer:` as the last line"
    ),
    max_new_tokens=1024,
    submission=submission,
    likelihood=True,
    scoring=(
        "The one choice letter among the answer's last five words, or the one choice whose text it "
        "holds. Accuracy per task; the headline is their plain mean."
    ),
    disagreements=(
        "The official evaluation has GPT-3.5 match an answer to a choice; here VLMEvalKit's rules "
        "do, and an answer that they can't read is wrong. lmms-eval takes the answer's first "
        "letter, whatever word it belongs to, and pools all questions (`pooled_accuracy`) instead "
        "of averaging tasks. The official LLaVA-1.5 numbers are of images joined into one."
    ),
)
