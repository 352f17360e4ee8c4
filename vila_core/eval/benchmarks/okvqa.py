"""OK-VQA: questions about COCO images that need knowledge of the world (Marino et al. 2019)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.vqa_format import (
    Answered,
    coco_image,
    folder_of,
    read_answered,
    read_asked,
)
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.vqa import normalise, vqa_accuracy

_SUBSETS = {"val": "val2014", "train": "train2014"}
_QUESTIONS = "OpenEnded_mscoco_{}_questions.json"
_ANSWERS = "mscoco_{}_annotations.json"


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of a split with their stemmed answers (v1.1)."""
    subset = _SUBSETS[fields.split_of(options, "okvqa", tuple(_SUBSETS))]
    found = read_asked(files, _QUESTIONS.format(subset), coco_image(subset))
    answered, content = read_answered(files, _ANSWERS.format(subset), found)
    kinds = fields.mapping(content.get("question_types", {}), files.where(_ANSWERS.format(subset)))
    extra = {"layout": options.layout, "stems": stems(answered)}
    images = folder_of(files, subset)
    questions: list[Question] = []
    for each, answers in zip(found.asked, answered, strict=True):
        image = images.image(each.image, each.where)
        references = tuple(one["answer"] for one in answers.answers)
        shown = [str(one.get("raw_answer", one["answer"])) for one in answers.answers]
        questions.append(
            Question(
                each.key,
                Case(short.ask(image, each.text, options), short.most_common(shown)),
                references,
                type=fields.slug(str(kinds.get(answers.question_type, answers.question_type))),
                unit=each.image,
                extra=extra,
                where=each.where,
            )
        )
    return unique(questions)


def stems(answered: Iterable[Answered]) -> dict[str, str]:
    """Return how the official answers were stemmed: raw text to stem, whole answers and words.

    The annotation file gives each answer raw and stemmed. The stemmer itself needs NLTK, its
    models, and a table of exceptions; what it made of the answers is all that can ever match one.
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for answers in answered:
        for answer in answers.answers:
            raw, stem = normalise(str(answer.get("raw_answer", ""))), normalise(answer["answer"])
            found[raw][stem] += 1
            words = (raw.split(), stem.split())
            if len(words[0]) == len(words[1]) > 1:
                for word, its_stem in zip(*words, strict=True):
                    found[word][its_stem] += 1
    found.pop("", None)
    return {raw: counts.most_common(1)[0][0] for raw, counts in found.items()}


def stem(text: str, known: Mapping[str, str]) -> str:
    """Return a normalised answer as the official answers are stemmed."""
    if text in known:
        return known[text]
    return " ".join(known.get(word, word) for word in text.split())


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Score the normalised, stemmed answer by the official soft accuracy."""
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        plain = normalise(short.said(question, answer))
        parsed = stem(plain, question.extra["stems"])
        detail: dict[str, Any] = {"unstemmed": vqa_accuracy(plain, question.references)}
        grades.append(Grade(parsed, vqa_accuracy(parsed, question.references), detail))
    return grades


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return the accuracies, and the one of answers that are not stemmed."""
    unstemmed = short.mean(each.detail["unstemmed"] for each in grades)
    return short.accuracies(questions, grades) | {"accuracy_unstemmed": unstemmed}


BENCHMARK = Benchmark(
    name="okvqa",
    title="OK-VQA v1.1",
    version="1",
    source="okvqa.allenai.org; scorer github.com/GT-Vision-Lab/VQA",
    files=(
        FileSpec("OpenEnded_mscoco_{val,train}2014_questions.json", "questions"),
        FileSpec("mscoco_{val,train}2014_annotations.json", "answers, raw and stemmed"),
        FileSpec("{val2014,train2014}/COCO_….jpg", "images"),
    ),
    splits=tuple(_SUBSETS),
    train_split="train",
    read=read,
    grade=grade,
    metrics=metrics,
    headline="accuracy",
    headline_unit="%",
    prompt=f"{short.CHAT_PROMPT}; plain: {short.PLAIN_PROMPT}",
    max_new_tokens=128,
    scoring=(
        "The official soft accuracy, as for VQAv2, against the stemmed answers of v1.1. Answers "
        "are stemmed alike, by the pairs of raw and stemmed answers in the annotation file. "
        "`accuracy_unstemmed` leaves that out; `accuracy/<type>` by category of knowledge."
    ),
    disagreements=(
        "The paper names neither split nor prompt. OpenFlamingo stems with NLTK and a table of "
        "exceptions; that differs from the pairs of the file only for words that no person wrote. "
        "lmms-eval does not stem and adds VizWiz's sentence on unanswerable questions."
    ),
)
