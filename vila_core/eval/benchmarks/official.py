"""What multiple choice and yes/no benchmarks share: prompts, images in official files, means."""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Grade, Options, Question
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.short_answer import SHORT_ANSWER, mean
from vila_core.eval.files import EmbeddedImage, Files, ImageRef
from vila_core.eval.scorers.options import letters

LETTER = "Answer with the option's letter from the given choices directly."
"""LLaVA-1.5's instruction for multiple choice (arXiv 2310.03744, Table 8)."""


def one_of(row: dict[str, Any], name: str, allowed: Sequence[str], where: str) -> str:
    """Return a field that must be one of some values. Raises UserError naming the value."""
    value = fields.text(row, name, where)
    if value not in allowed:
        raise UserError(
            f"{where}: the field '{name}' is '{value}', but must be one of {', '.join(allowed)}; "
            "is this the official file of this version? Download it again"
        )
    return value


def option_lines(choices: Sequence[str]) -> str:
    """Return "A. one", "B. two" … in lines."""
    return "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(letters(len(choices)), choices, strict=True)
    )


def letter_parts(
    images: Sequence[ImageRef], asked: str, options: Options, instruction: str = LETTER
) -> tuple[str | ImageRef, ...]:
    """Return a prompt that asks for a letter; the plain layout ends in "Answer:" instead."""
    last = "Answer:" if options.layout == "plain" else instruction
    return *lines_of(images), f"{asked}\n{last}"


def short_parts(
    images: Sequence[ImageRef], question: str, options: Options
) -> tuple[str | ImageRef, ...]:
    """Return a prompt for a short answer: LLaVA-1.5's, or OpenFlamingo's in the plain layout."""
    if options.layout == "plain":
        return *images, f"Question:{question} Short answer:"
    return *lines_of(images), f"{question}\n{SHORT_ANSWER}"


def open_parts(
    images: Sequence[ImageRef], question: str, options: Options
) -> tuple[str | ImageRef, ...]:
    """Return a prompt without any instruction; the plain layout says who speaks."""
    if options.layout == "plain":
        return *images, f"Question:{question} Answer:"
    return *lines_of(images), question


def lines_of(images: Sequence[ImageRef]) -> list[str | ImageRef]:
    """Return the images, a line break after each."""
    return [part for image in images for part in (image, "\n")]


class ImageFolder:
    """The folder of a benchmark's images: the first of some where the first image lies.

    It is looked for once, since in a store every look is a request.
    """

    def __init__(self, files: Files, folders: Sequence[str]) -> None:
        self._files = files
        self._folders = folders
        self._chosen: str | None = None

    def image(self, name: str, where: str) -> ImageRef:
        """Return an image by its name in the folder. Raises UserError as `Files.image` does."""
        if self._chosen is None:
            there = (folder for folder in self._folders if self._files.exists(_join(folder, name)))
            self._chosen = next(there, self._folders[0])
        return self._files.image(_join(self._chosen, name), where)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def embedded(cell: Any, name: str, where: str) -> EmbeddedImage:
    """Return an image of a parquet file, whose cell is {"bytes": …, "path": …} or the bytes.

    Raises UserError where it holds none.
    """
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(data, bytes) or not data:
        raise UserError(f"{where}: the field '{name}' holds no image; download the file again")
    return EmbeddedImage(data, f"{where}, {name}")


def from_base64(cell: str, name: str, where: str) -> EmbeddedImage:
    """Return an image written as base64. Raises UserError for anything else."""
    try:
        data = base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise UserError(
            f"{where}: the field '{name}' holds no base64 image; download the file again"
        )
    return EmbeddedImage(data, f"{where}, {name}")


def parquet_files(files: Files, folder: str, split: str) -> list[str]:
    """Return the parquet files of a split (`validation-00000-of-00001.parquet` …), in order.

    Raises UserError when there are none, or some of their number are missing.
    """
    form = re.compile(rf"{re.escape(split)}-(\d{{5}})-of-(\d{{5}})\.parquet")
    found = [match for name in files.names(folder) if (match := form.fullmatch(name))]
    if not found:
        files.first(f"{folder}/{split}-00000-of-00001.parquet")  # tells what is missing
    count = int(found[0][2])
    if [int(match[1]) for match in found] != list(range(count)):
        raise UserError(
            f"{files.where(folder)}: holds {len(found)} of the {count} parquet files of the split "
            f"'{split}'; download the missing ones"
        )
    return [f"{folder}/{match[0]}" for match in found]


def scored(
    questions: Sequence[Question], grades: Sequence[Grade]
) -> list[tuple[Question, Grade, float]]:
    """Return the questions with their grades and scores, those without a score left out."""
    return [
        (question, grade, grade.score)
        for question, grade in zip(questions, grades, strict=True)
        if grade.score is not None
    ]


def by_type(name: str, typed: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return `name/type` → mean of the type's scores."""
    types: dict[str, list[float]] = {}
    for kind, score in typed:
        types.setdefault(kind, []).append(score)
    return {f"{name}/{kind}": mean(scores) for kind, scores in types.items()}


def copies(questions: Sequence[Question]) -> list[int]:
    """Return for each question how often it stood before.

    A bootstrap draws a unit several times: its copies are groups of their own.
    """
    seen: Counter[str] = Counter()
    numbers = []
    for question in questions:
        numbers.append(seen[question.key])
        seen[question.key] += 1
    return numbers


def letter_grades(questions: Sequence[Question], parsed: Sequence[str | None]) -> list[Grade]:
    """Return right or wrong by the letter; no score where the official letter is not public."""
    return [
        Grade(
            named or "",
            float(named == question.references[0]) if question.references else None,
        )
        for question, named in zip(questions, parsed, strict=True)
    ]
