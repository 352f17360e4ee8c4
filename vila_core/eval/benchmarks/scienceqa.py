"""ScienceQA: school questions with options, half of them about an image (Lu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.official import LETTER, ImageFolder
from vila_core.eval.files import Files, ImageRef
from vila_core.eval.items import IMAGE, Case
from vila_core.eval.scorers.options import letters, scienceqa_letter

_SPLITS = ("test", "minitest", "val", "minival", "train")
_LLAVA = "llava_test_CQM-A.json"


def read(files: Files, options: Options) -> list[Question]:
    """Return all questions of a split, those without an image too."""
    split = fields.split_of(options, "scienceqa", _SPLITS)
    problems = fields.mapping(
        files.json("problems.json", unique=True), files.where("problems.json")
    )
    splits = fields.mapping(files.json("pid_splits.json"), files.where("pid_splits.json"))
    keys = fields.texts(splits, split, files.where("pid_splits.json"))
    written = _as_llava_asks(files) if split == "test" and options.layout == "chat" else {}
    folders: dict[str, ImageFolder] = {}
    questions: list[Question] = []
    for at, key in enumerate(keys):
        where = f"{files.where('problems.json')}: problem {key}"
        if key not in problems:
            raise UserError(
                f"{files.where('pid_splits.json')}: {split}[{at}] is problem {key}, which "
                "problems.json does not hold; these files are of different versions; download both "
                "again"
            )
        record = fields.mapping(problems[key], where)
        picture = record.get("image")
        image = None
        if picture is not None:
            place = f"{key}/{fields.text(record, 'image', where)}"
            # minitest and minival are drawn from test and val, whose folders hold their images.
            folder = str(record.get("split", split))
            if folder not in folders:
                folders[folder] = ImageFolder(files, (f"images/{folder}", folder, ""))
            image = folders[folder].image(place, where)
        questions.append(_question(key, record, image, options, written.get(key), where))
    return unique(questions)


def _question(
    key: str,
    record: dict[str, Any],
    image: ImageRef | None,
    options: Options,
    written: str | None,
    where: str,
) -> Question:
    choices = fields.texts(record, "choices", where)
    answer = fields.number(record, "answer", where)
    if not 0 <= answer < len(choices) <= 26:
        raise UserError(
            f"{where}: answer {answer} is not among {len(choices)} choices; download problems.json "
            "again"
        )
    letter = letters(len(choices))[answer]
    text = written or _text(record, choices, options, where)
    return Question(
        key,
        Case((image, f"\n{text}") if image is not None else (text,), letter),
        (letter,),
        choices=tuple(choices),
        type=fields.slug(str(record.get("subject", "all"))),
        extra={
            "layout": options.layout,
            "grade": str(record.get("grade", "")),
            "context": _context(image is not None, str(record.get("hint") or "")),
        },
        where=where,
    )


def _text(record: dict[str, Any], choices: Sequence[str], options: Options, where: str) -> str:
    """Return the question as LLaVA's convert_sqa_to_llava.py writes it in its format CQM-A."""
    hint = str(record.get("hint") or "").strip() or "N/A"
    named = zip(letters(len(choices)), choices, strict=True)
    listed = " ".join(f"({letter}) {choice}" for letter, choice in named)
    question = fields.text(record, "question", where)
    text = f"Context: {hint}\nQuestion: {question}\nOptions: {listed}"
    text = text.replace("  ", " ").strip()
    return f"{text}\nAnswer:" if options.layout == "plain" else f"{text}\n{LETTER}"


def _as_llava_asks(files: Files) -> dict[str, str]:
    """Return LLaVA's wording of each question, where its file is there."""
    if not files.exists(_LLAVA):
        return {}
    whole = files.where(_LLAVA)
    asked: dict[str, str] = {}
    for at, record in enumerate(fields.objects({"": files.json(_LLAVA)}, "", whole)):
        where = f"{whole}: [{at}]"
        turns = fields.objects(record, "conversations", where)
        if not turns:
            raise UserError(f"{where}: holds no conversation; download the file again")
        text = fields.text(turns[0], "value", where).replace(IMAGE, "").strip()
        asked[fields.name(record, "id", where)] = (
            text if text.endswith(LETTER) else f"{text}\n{LETTER}"
        )
    return asked


def _context(image: bool, hint: str) -> str:
    if image:
        return "image"
    return "text" if hint.strip() else "none"


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Read the letter as LLaVA does; an answer without one is wrong."""
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        letter = scienceqa_letter(answer.strip(), letters(len(question.choices)))
        grades.append(Grade(letter or "", float(letter in question.references)))
    return grades


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return the accuracies over all, by subject, by context, and by school grade."""
    found = short.accuracies(questions, grades)
    pairs = [
        (question, each.score)
        for question, each in zip(questions, grades, strict=True)
        if each.score is not None
    ]
    groups = {name: [name == q.extra["context"] for q, _ in pairs] for name in _CONTEXTS}
    early = [q.extra["grade"] in _EARLY for q, _ in pairs]
    groups |= {"grades_1-6": early, "grades_7-12": [not each for each in early]}
    for name, inside in groups.items():
        if any(inside):
            chosen = zip(pairs, inside, strict=True)
            found[f"accuracy/{name}"] = short.mean(score for (_, score), use in chosen if use)
    return found


_CONTEXTS = ("image", "text", "none")
_EARLY = frozenset(f"grade{n}" for n in range(1, 7))

BENCHMARK = Benchmark(
    name="scienceqa",
    title="ScienceQA-IMG",
    version="1",
    source="github.com/lupantech/ScienceQA; scorer LLaVA's eval_science_qa.py",
    files=(
        FileSpec("problems.json", "questions, choices, answers"),
        FileSpec("pid_splits.json", "which problem is in which split"),
        FileSpec(_LLAVA, "where it is there, LLaVA's wording is used to the letter", ("test",)),
        FileSpec("images/{test,val,train}/<id>/image.png", "images"),
    ),
    splits=_SPLITS,
    train_split="train",
    read=read,
    grade=grade,
    metrics=metrics,
    headline="accuracy/image",
    headline_unit="%",
    prompt=(
        "`<image>↵Context: {hint or N/A}↵Question: {question}↵Options: (A) … (B) …↵"
        f"{LETTER}`; without the image and its line break where there is none; plain: the same "
        "with `Answer:` as the last line"
    ),
    max_new_tokens=1024,
    likelihood=True,
    scoring=(
        'A letter alone, a letter before ". ", or the first "The answer is X"; anything else is '
        "wrong. The paper's column is `accuracy/image`, over the questions with an image; "
        "`accuracy` is over all; also by subject, context and school grade."
    ),
    disagreements=(
        "The prompt is what LLaVA's converter writes in the format CQM-A, after which its question "
        "file is named; that file, part of its eval.zip, was not at hand to compare. In QCM-A, "
        "LLaVA-1.5-7B falls from 66.8 to 44.8 (LLaVA#1294). lmms-eval "
        "writes the options as `A. …` on lines of their own, and accepts a letter before a period "
        "without a blank."
    ),
)
