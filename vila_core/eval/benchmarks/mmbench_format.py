"""MMBench in any language: TSV with the images inside, each question with its rotated copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import (
    by_type,
    copies,
    from_base64,
    letter_grades,
    letter_parts,
    option_lines,
    scored,
)
from vila_core.eval.benchmarks.short_answer import mean
from vila_core.eval.files import EmbeddedImage, Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.options import circular, infer_option
from vila_core.eval.xlsx import workbook

_LETTERS = "ABCD"
_COPY = 1_000_000  # a rotated copy's index is its question's plus a multiple of this
_NEEDED = ("index", "question", "A", "B", "image")
_LEFT_OUT = ("hint", "category", "source", "image", "comment", "l2-category")
_REFERENCE = 64  # a shorter image cell is the index of the row that has the image


def reader(
    names: dict[str, tuple[str, ...]], instruction: str
) -> Callable[[Files, Options], list[Question]]:
    """Return how a language's files are read: names by split, best first; the last prompt line."""

    def read(files: Files, options: Options) -> list[Question]:
        name = files.first(*names[options.split])
        rows = list(files.tsv(name))
        _check(rows, files.where(name), options.split)
        images = _Images(rows)
        questions = [
            _question(where, row, place, images, options, instruction)
            for place, (where, row) in enumerate(rows)
        ]
        # A question's copies in a row: a limit then cuts between questions.
        first: dict[str, int] = {}
        for place, question in enumerate(questions):
            first.setdefault(question.unit, place)
        return unique(sorted(questions, key=lambda question: first[question.unit]))

    return read


def _check(rows: list[tuple[str, dict[str, str]]], place: str, split: str) -> None:
    if not rows:
        raise UserError(f"{place}: holds no questions; download the file again")
    columns = rows[0][1]
    if missing := [name for name in _NEEDED if name not in columns]:
        raise UserError(
            f"{place}: the column {missing[0]} is missing; is this an official MMBench TSV?"
        )
    for where, row in rows:
        if row.get("split", split) not in (split, ""):
            raise UserError(
                f"{where}: belongs to the split '{row['split']}', but '{split}' is asked for; put "
                "that split's file there"
            )
        if not row["index"].isdecimal():
            raise UserError(f"{where}: the index '{row['index']}' is no number")
    if all(int(row["index"]) < _COPY for _, row in rows):
        raise UserError(
            f"{place}: holds no rotated copies of its questions (their index is above 1,000,000), "
            "which circular evaluation needs; put the official TSV there"
        )


class _Images:
    """The images of a file; a row may name another one that has it."""

    def __init__(self, rows: Sequence[tuple[str, dict[str, str]]]) -> None:
        self._cells = {row["index"]: row["image"] for _, row in rows}
        self._known: dict[str, EmbeddedImage] = {}

    def of(self, row: dict[str, str], where: str) -> EmbeddedImage:
        """Return a row's image; rotated copies share one in memory. Raises UserError."""
        cell = row["image"]
        if len(cell) <= _REFERENCE:
            cell = self._cells.get(cell, cell)
        if cell not in self._known:
            self._known[cell] = from_base64(cell, "image", where)
        return self._known[cell]


def _question(
    where: str,
    row: dict[str, str],
    place: int,
    images: _Images,
    options: Options,
    instruction: str,
) -> Question:
    choices: list[str] = []
    for letter in _LETTERS:
        if _empty(row.get(letter, "")):
            break
        choices.append(row[letter])
    if len(choices) < 2:
        raise UserError(f"{where}: has fewer than two options; download the file again")
    answer = row.get("answer", "").strip()
    if answer and answer not in _LETTERS[: len(choices)]:
        raise UserError(
            f"{where}: the answer '{answer}' names none of its {len(choices)} options; download "
            "the file again"
        )
    hint = "" if _empty(row.get("hint", "")) else row["hint"] + "\n"
    asked = f"{hint}{row['question']}\n{option_lines(choices)}"
    parts = letter_parts([images.of(row, where)], asked, options, instruction)
    return Question(
        key=row["index"],
        case=Case(parts, answer),
        references=(answer,) if answer else (),
        choices=tuple(choices),
        type=fields.slug(row.get("category", "") or "all"),
        unit=str(int(row["index"]) % _COPY),
        extra={
            "area": fields.slug(row.get("l2-category", "") or "all"),
            "row": {name: cell for name, cell in row.items() if name not in _LEFT_OUT},
            "place": place,
            "first": int(row["index"]) < _COPY,
        },
        where=where,
    )


def _empty(cell: str) -> bool:
    return cell.strip().lower() in ("", "nan", "none")


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return each rotated copy as right or wrong, by the rules that need no judge."""
    parsed = [
        infer_option(answer.strip(), question.choices)
        for question, answer in zip(questions, answers, strict=True)
    ]
    return letter_grades(questions, parsed)


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return circular accuracy, overall, per area and per ability, and that of the first copies."""
    each = scored(questions, grades)
    if not each:
        return {}
    groups = [
        f"{question.unit}#{copy}"
        for question, copy in zip(questions, copies(questions), strict=True)
    ]
    whole = circular(groups, [grade.score == 1.0 for grade in grades])
    firsts = dict(zip(reversed(groups), reversed(questions), strict=True))
    found = {"accuracy": mean(map(float, whole.values()))}
    areas = ((firsts[group].extra["area"], float(right)) for group, right in whole.items())
    abilities = ((firsts[group].type, float(right)) for group, right in whole.items())
    found |= by_type("accuracy", areas) | by_type("accuracy", abilities)
    single = [score for question, _, score in each if question.extra["first"]]
    if single:
        found["single_accuracy"] = mean(single)
    return found


def submission(
    name: str,
) -> Callable[[Sequence[Question], Sequence[str]], dict[str, bytes]]:
    """Return the writer of the server's spreadsheet: LLaVA's columns, the answers as prediction."""

    def write(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
        both = sorted(zip(questions, answers, strict=True), key=lambda each: each[0].extra["place"])
        columns = list(both[0][0].extra["row"])
        at = columns.index("D") + 1 if "D" in columns else len(columns)
        table: list[list[str | int | None]] = [[*columns[:at], "prediction", *columns[at:]]]
        for question, answer in both:
            row = question.extra["row"]
            cells: list[str | int | None] = [
                int(row[column]) if column == "index" else row[column] or None for column in columns
            ]
            table.append([*cells[:at], answer.strip(), *cells[at:]])
        return {f"{name}.xlsx": workbook(table)}

    return write
