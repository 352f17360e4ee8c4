"""NLVR2: is a sentence about two photographs true?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import ImageFolder, copies, one_of, scored, short_parts
from vila_core.eval.benchmarks.short_answer import SHORT_ANSWER, mean
from vila_core.eval.files import Files
from vila_core.eval.items import Case

ASKED = "Is this statement about the two images, the left one first, true or false?"
"""Ours: neither LLaVA-1.5 nor VILA has a prompt for NLVR2."""

_SPLITS = ("dev", "test1", "test2", "train")
_ANSWER = re.compile(r"\W*(true|false|yes|no)\b", re.IGNORECASE)
_TRUE = ("true", "yes")


def read(files: Files, options: Options) -> list[Question]:
    """Return the sentences in the order of the file, the left image before the right one."""
    split = options.split
    name = files.first(f"{split}.json", f"data/{split}.json", f"nlvr2/data/{split}.json")
    images = ImageFolder(files, (split, f"images/{split}", "images", ""))
    questions: list[Question] = []
    for where, row in files.jsonl(name):
        key = fields.text(row, "identifier", where)
        parts = key.split("-")
        if len(parts) != 4 or parts[0] != split:
            raise UserError(
                f"{where}: the identifier '{key}' is not of the form {split}-set-pair-sentence; is "
                f"this the file of the split '{split}'?"
            )
        label = one_of(row, "label", ("True", "False"), where)
        pair = "-".join(parts[:3])
        # The training images lie in numbered folders, which the file names.
        folder = f"{row['directory']}/" if isinstance(row.get("directory"), int | str) else ""
        shown = [images.image(f"{folder}{pair}-img{n}.png", where) for n in (0, 1)]
        asked = f"{fields.text(row, 'sentence', where)}\n{ASKED}"
        questions.append(
            Question(
                key=key,
                case=Case(short_parts(shown, asked, options), label),
                references=(label,),
                unit="-".join(parts[:2]),
                extra={"sentence": f"{parts[0]}-{parts[1]}--{parts[3]}"},
                where=where,
            )
        )
    return unique(questions)


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return True or False by the answer's first word; yes and no count, anything else is wrong."""
    grades: list[Grade] = []
    for question, answer in zip(questions, answers, strict=True):
        found = _ANSWER.match(answer)
        said = "" if found is None else str(found[1].lower() in _TRUE)
        grades.append(Grade(said, float(said == question.references[0])))
    return grades


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return accuracy, and consistency: the share of sentences right for all their image pairs."""
    sentences: dict[tuple[str, int], bool] = {}
    each = scored(questions, grades)
    for (question, _, score), copy in zip(each, copies(questions), strict=True):
        sentence = question.extra["sentence"], copy
        sentences[sentence] = sentences.get(sentence, True) and score == 1.0
    return {
        "accuracy": mean(score for _, _, score in each),
        "consistency": mean(map(float, sentences.values())),
    }


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return what NLVR2's eval/metrics.py reads: identifier,label; empty for an unclear answer."""
    graded = grade(questions, answers)
    lines = (f"{q.key},{each.parsed}\n" for q, each in zip(questions, graded, strict=True))
    return {"nlvr2.csv": "".join(lines).encode()}


BENCHMARK = Benchmark(
    name="nlvr2",
    title="NLVR2 (two images)",
    version="1",
    source="https://github.com/lil-lab/nlvr (nlvr2/data, nlvr2/eval/metrics.py)",
    files=(
        *(FileSpec(f"{s}.json", "sentences and labels, a JSON line each", (s,)) for s in _SPLITS),
        FileSpec(
            "<split>/<split>-<set>-<pair>-img0.png, -img1.png",
            "left and right image; also below `images/<split>/` or `images/`; training images in "
            "numbered folders, as released",
        ),
    ),
    splits=("dev", "test1", "test2", "train"),
    train_split="train",
    read=read,
    grade=grade,
    metrics=metrics,
    headline="accuracy",
    headline_unit="%",
    prompt=(
        f"`<image>↵<image>↵{{sentence}}↵{ASKED}↵{SHORT_ANSWER}`, the left image first; plain: "
        f"`<image><image>Question:{{sentence}}↵{ASKED} Short answer:`"
    ),
    max_new_tokens=128,
    submission=submission,
    scoring=(
        "The answer must start with true, false, yes or no (any case). Accuracy over sentences "
        "with their pairs; consistency counts a sentence as right if it is so for all its pairs."
    ),
    disagreements=(
        "The prompt is ours. LLaVA-Interleave and lmms-eval ask NLVR2 as a choice of (A) True and "
        "(B) False on Mantis' selection of it; fine-tuned models use a classifier. Some of the "
        "images can no longer be had from their addresses."
    ),
)
