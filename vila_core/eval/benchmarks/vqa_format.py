"""The format of the VQA challenge: a file of questions, and one of ten people's answers each.

VQAv2 and OK-VQA come in it. LLaVA's own question files (`llava_*.jsonl`) are read as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import ImageFolder
from vila_core.eval.files import Files

_OTHER = "these files are of different versions or splits; download both again"


@dataclass(frozen=True)
class Asked:
    """A question of the official file; `text` carries the format instruction in LLaVA's files."""

    key: str
    image_id: str
    image: str
    text: str
    where: str
    written: bool = False  # by LLaVA: the text is the whole prompt


@dataclass(frozen=True)
class Questions:
    """A file of questions; `subset` is what it says it is of, where it does."""

    name: str
    subset: str
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Answered:
    """The official answers to a question."""

    answers: tuple[dict[str, Any], ...]
    answer_type: str
    question_type: str
    image_id: str
    where: str


def read_asked(files: Files, name: str, image: Callable[[str], str]) -> Questions:
    """Return the questions of `name`; `image` makes a file name of an image id.

    Raises UserError for what is no such file, and for an id that stands twice.
    """
    if name.endswith(".jsonl"):
        subset = ""
        asked = tuple(
            Asked(
                fields.name(record, "question_id", where),
                "",
                fields.text(record, "image", where),
                fields.text(record, "text", where),
                where,
                written=True,
            )
            for where, record in files.jsonl(name)
        )
    else:
        whole = files.where(name)
        content = fields.mapping(files.json(name), whole)
        subset = str(content.get("data_subtype", ""))
        asked = tuple(
            _asked(record, f"{whole}: questions[{at}]", image)
            for at, record in enumerate(fields.objects(content, "questions", whole))
        )
    _once([(each.key, each.where) for each in asked])
    return Questions(name, subset, asked)


def _asked(record: dict[str, Any], where: str, image: Callable[[str], str]) -> Asked:
    image_id = fields.name(record, "image_id", where)
    text = fields.text(record, "question", where)
    return Asked(fields.name(record, "question_id", where), image_id, image(image_id), text, where)


def read_answered(
    files: Files, name: str, questions: Questions
) -> tuple[list[Answered], dict[str, Any]]:
    """Return the answers of `name` to each question, in their order, and the file's other content.

    Raises UserError where the two files don't belong together: another subset, a question without
    answers, answers without a question, another image.
    """
    whole = files.where(name)
    content = fields.mapping(files.json(name), whole)
    subset = str(content.get("data_subtype", ""))
    if subset and questions.subset and subset != questions.subset:
        raise UserError(
            f"{whole}: answers of the subset '{subset}', but {questions.name} is of "
            f"'{questions.subset}'; {_OTHER}"
        )
    listed = [
        _answered(record, f"{whole}: annotations[{at}]")
        for at, record in enumerate(fields.objects(content, "annotations", whole))
    ]
    _once([(key, each.where) for key, each in listed])
    known = dict(listed)
    for each in questions.asked:
        if each.key not in known:
            raise UserError(f"{each.where}: question {each.key} has no answers in {name}; {_OTHER}")
        about = known[each.key].image_id
        if about and each.image_id and about != each.image_id:
            raise UserError(
                f"{known[each.key].where}: question {each.key} is about image {about}, but in "
                f"{questions.name} about {each.image_id}; {_OTHER}"
            )
    if extra := known.keys() - {each.key for each in questions.asked}:
        key = min(extra)
        raise UserError(
            f"{known[key].where}: answers to question {key}, which {questions.name} does not hold; "
            f"{_OTHER}"
        )
    return [known[each.key] for each in questions.asked], content


def _answered(record: dict[str, Any], where: str) -> tuple[str, Answered]:
    key = fields.name(record, "question_id", where)
    answers = fields.objects(record, "answers", where)
    if not answers:
        raise UserError(f"{where}: question {key} has no answers; download the file again")
    for answer in answers:
        fields.text(answer, "answer", where)
    kinds = (str(record.get("answer_type", "")), str(record.get("question_type", "")))
    return key, Answered(tuple(answers), *kinds, str(record.get("image_id", "")), where)


def coco_image(folder: str) -> Callable[[str], str]:
    """Return how an image id is written as a file of COCO 2014 or test2015."""
    return lambda key: f"COCO_{folder}_{key.zfill(12)}.jpg"


def folder_of(files: Files, folder: str) -> ImageFolder:
    """Return where images lie: in the folder of their archive, in `images`, or by the files."""
    return ImageFolder(files, (folder, f"images/{folder}", ""))


def _once(places: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for key, where in places:
        if key in seen:
            raise UserError(
                f"{where}: the question id '{key}' stands twice, first at {seen[key]}; download "
                "the file again"
            )
        seen[key] = where
