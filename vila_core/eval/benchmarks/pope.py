"""POPE: is this object in the image? Three ways to draw the objects that are not."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.official import ImageFolder, one_of, scored, short_parts
from vila_core.eval.benchmarks.short_answer import mean
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.yesno import binary_metrics, pope_answer

STRATEGIES = ("random", "popular", "adversarial")
_IMAGES = ("val2014", "images", "coco/val2014", "")


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions of one way, or of all three in the order of LLaVA's table."""
    images = ImageFolder(files, _IMAGES)
    questions: list[Question] = []
    for strategy in STRATEGIES if options.split == "all" else (options.split,):
        base = f"coco_pope_{strategy}.json"
        name = files.first(base, f"coco/{base}", f"output/coco/{base}")
        for where, row in files.jsonl(name):
            image_name = fields.text(row, "image", where)
            label = one_of(row, "label", ("yes", "no"), where)
            asked = fields.text(row, "text", where)
            shown = [images.image(image_name, where)]
            questions.append(
                Question(
                    key=f"{strategy}/{fields.name(row, 'question_id', where)}",
                    case=Case(short_parts(shown, asked, options), label),
                    references=(label,),
                    type=strategy,
                    unit=image_name,
                    extra={"question": asked, "layout": options.layout},
                    where=where,
                )
            )
    return unique(questions)


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return yes or no by POPE's words of negation; a long answer is read, not refused."""
    parsed = [pope_answer(short.said(q, a)) for q, a in zip(questions, answers, strict=True)]
    return [
        Grade(said, float(said == question.references[0]))
        for question, said in zip(questions, parsed, strict=True)
    ]


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return each measure per way, and its mean over the ways; `f1` is what papers print."""
    parts: dict[str, tuple[list[str], list[str]]] = {}
    for question, each, _ in scored(questions, grades):
        said, labels = parts.setdefault(question.type, ([], []))
        said.append(each.parsed)
        labels.append(question.references[0])
    each_way = {way: binary_metrics(*part) for way, part in parts.items()}
    found: dict[str, float] = {}
    for measure in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        found[measure] = mean(values[measure] for values in each_way.values())
        found |= {f"{measure}/{way}": values[measure] for way, values in each_way.items()}
    return found


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return what POPE's evaluate.py reads: question and answer, a file per way."""
    lines: dict[str, list[str]] = {}
    for question, answer in zip(questions, answers, strict=True):
        row = {"question": question.extra["question"], "answer": answer}
        lines.setdefault(question.type, []).append(json.dumps(row, ensure_ascii=False) + "\n")
    return {f"pope_{way}.json": "".join(rows).encode() for way, rows in lines.items()}


BENCHMARK = Benchmark(
    name="pope",
    title="POPE (object hallucination, COCO)",
    version="1",
    source="https://github.com/AoiDragon/POPE (output/coco; images: COCO val2014)",
    files=(
        *(
            FileSpec(
                f"coco_pope_{way}.json", "question, image, label, a JSON line each", ("all", way)
            )
            for way in STRATEGIES
        ),
        FileSpec(
            "val2014/COCO_val2014_*.jpg", "images, also below images/ or beside the questions"
        ),
    ),
    splits=("all", *STRATEGIES),
    train_split=None,
    read=read,
    grade=grade,
    metrics=metrics,
    headline="f1",
    headline_unit="%, mean of the F1 of random, popular and adversarial",
    prompt=f"{short.CHAT_PROMPT}; plain: {short.PLAIN_PROMPT}",
    max_new_tokens=128,
    submission=submission,
    scoring=(
        "An answer is no if its first sentence holds 'No', 'no' or 'not', else yes. Accuracy, "
        "precision, recall, F1 (yes is the positive class) and share of yes per way of drawing "
        "absent objects; the headline is the mean of the three F1."
    ),
    disagreements=(
        "LLaVA's eval_pope.py (used here) reads any answer whose first sentence has none of 'No', "
        "'no', 'not' as yes; lmms-eval wants the whole answer to be 'yes' or 'no', pools the three "
        "files into one F1, and its yes_ratio counts labels instead of answers. LLaVA's "
        "documentation pins an earlier commit of the official files."
    ),
)
