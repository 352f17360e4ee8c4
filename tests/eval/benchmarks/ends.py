"""One benchmark from its files to its submission, with given answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vila_core.eval.benchmark import Benchmark, Grade, Options, Question, benchmark
from vila_core.eval.files import Files
from vila_core.eval.items import IMAGE
from vila_core.eval.prompts import render


@dataclass(frozen=True)
class Run:
    """What came of a benchmark's answers."""

    questions: list[Question]
    grades: list[Grade]
    metrics: dict[str, float]
    files: dict[str, Any]


def ask(
    name: str,
    folder: Path,
    split: str = "",
    *,
    layout: Literal["chat", "plain"] = "chat",
    ocr: bool = True,
) -> list[Question]:
    """Read a split (the default one) of a benchmark."""
    chosen = benchmark(name)
    options = Options(split or chosen.splits[0], ocr, layout)
    return chosen.read(Files(folder, chosen.source), options)


def answered(name: str, questions: list[Question], reply: Callable[[Question], str]) -> Run:
    """Grade the replies, average, and write the submission."""
    chosen: Benchmark = benchmark(name)
    answers = [reply(question) for question in questions]
    grades = chosen.grade(questions, answers)
    files = chosen.submission(questions, answers) if chosen.submission else {}
    return Run(
        questions,
        grades,
        chosen.metrics(questions, grades),
        {name: json.loads(content) for name, content in files.items()},
    )


def shown(question: Question) -> str:
    """Return the prompt's text with image places."""
    text, images = render(question.case)
    assert text.count(IMAGE) == len(images)
    return text
