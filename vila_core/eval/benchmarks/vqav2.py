"""VQAv2: short answers about COCO images, ten people's answers each (Goyal et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.vqa_format import (
    Questions,
    coco_image,
    folder_of,
    read_answered,
    read_asked,
)
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.vqa import normalise, vqa_accuracy

_SUBSETS = {
    "test-dev": "test-dev2015",
    "test": "test2015",
    "val": "val2014",
    "train": "train2014",
}
_LLAVA = "llava_vqav2_mscoco_{}.jsonl"
_QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
_ANSWERS = "v2_mscoco_{}_annotations.json"


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of a split, with answers where they are public."""
    split = fields.split_of(options, "vqav2", tuple(_SUBSETS))
    subset = _SUBSETS[split]
    folder = "test2015" if split.startswith("test") else subset
    found = _questions(files, subset, folder)
    extra: dict[str, Any] = {"layout": options.layout, "subset": subset}
    if split.startswith("test"):
        cover = found if split == "test" else _questions(files, "test2015", folder)
        extra["submitted"] = keys = tuple(each.key for each in cover.asked)
        if lost := {each.key for each in found.asked} - set(keys):
            raise UserError(
                f"{files.where(found.name)}: question {min(lost)} is not in {cover.name}; these "
                "files are of different versions; download both again"
            )
        answered = [None] * len(found.asked)
    else:
        answered, _ = read_answered(files, _ANSWERS.format(subset), found)
    images = folder_of(files, folder)
    questions: list[Question] = []
    for each, answers in zip(found.asked, answered, strict=True):
        image = images.image(each.image, each.where)
        text = each.text.removesuffix(f"\n{short.SHORT_ANSWER}") if each.written else each.text
        references = tuple(one["answer"] for one in answers.answers) if answers else ()
        questions.append(
            Question(
                each.key,
                Case(short.ask(image, text, options), short.most_common(references)),
                references,
                type=fields.slug(answers.answer_type) if answers else "all",
                unit=each.image,
                extra=extra,
                where=each.where,
            )
        )
    return unique(questions)


def _questions(files: Files, subset: str, folder: str) -> Questions:
    names = [_QUESTIONS.format(subset)]
    if subset.startswith("test"):
        names.append(_LLAVA.format(subset))
    return read_asked(files, files.first(*names), coco_image(folder))


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Score what would be submitted: the normalised answer, by the official soft accuracy."""
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        parsed = normalise(short.said(question, answer))
        references = question.references
        grades.append(Grade(parsed, vqa_accuracy(parsed, references) if references else None))
    return grades


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the results file; for a test split all of test2015, blank where nothing was asked."""
    graded = grade(questions, answers)
    said = {question.key: each.parsed for question, each in zip(questions, graded, strict=True)}
    extra = questions[0].extra
    keys = extra.get("submitted") or tuple(said)
    results = [{"question_id": int(key), "answer": said.get(key, "")} for key in keys]
    return {f"vqav2_{extra['subset']}_results.json": short.as_json(results)}


BENCHMARK = Benchmark(
    name="vqav2",
    title="VQAv2",
    version="1",
    source="visualqa.org; scorer github.com/GT-Vision-Lab/VQA; server eval.ai, challenge 830",
    files=(
        FileSpec("v2_OpenEnded_mscoco_test-dev2015_questions.json", "questions", ("test-dev",)),
        FileSpec(
            "v2_OpenEnded_mscoco_test2015_questions.json",
            "questions; all of them stand in a submission",
            ("test-dev", "test"),
        ),
        FileSpec(
            "llava_vqav2_mscoco_{test-dev2015,test2015}.jsonl",
            "the same questions as LLaVA has them, in place of the files above",
            ("test-dev", "test"),
        ),
        FileSpec(
            "v2_OpenEnded_mscoco_{val,train}2014_questions.json", "questions", ("val", "train")
        ),
        FileSpec("v2_mscoco_{val,train}2014_annotations.json", "answers", ("val", "train")),
        FileSpec("{test2015,val2014,train2014}/COCO_….jpg", "images"),
    ),
    splits=tuple(_SUBSETS),
    train_split="train",
    read=read,
    grade=grade,
    metrics=short.accuracies,
    headline="accuracy",
    headline_unit="%",
    prompt=f"{short.CHAT_PROMPT}; plain: {short.PLAIN_PROMPT}",
    max_new_tokens=128,
    submission=submission,
    scoring=(
        "The answer is normalised (EvalAIAnswerProcessor), as LLaVA does before it submits, and "
        "then scored by the official soft accuracy: the mean over the ten people of min(1, matches "
        "among the other nine / 3). `accuracy/<type>`: yes_no, number, other. The test splits are "
        "scored by the server only."
    ),
    disagreements=(
        "LLaVA and the paper report test-dev; lmms-eval scores val locally, on the answer as it "
        "is, with at most 16 new tokens. A demonstration's answer is the one that most people "
        "gave; OpenFlamingo takes the first person's, and searches with 3 beams."
    ),
)
