"""LLaVA-Bench (in the wild): a judge compares each answer with GPT-4's, which saw the captions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import ImageFolder, one_of, open_parts
from vila_core.eval.benchmarks.short_answer import mean
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.judge import Rubric, unjudged

_CATEGORIES = ("conv", "detail", "complex")
_QUESTIONS, _CONTEXT, _REFERENCE = "questions.jsonl", "context.jsonl", "answers_gpt4.jsonl"
_RULES = "rule.json"
_BEST = 10.0


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions with what the judge is shown: caption, reference answer and rule."""
    captions = {
        fields.text(row, "image", where): _caption(row, where)
        for where, row in files.jsonl(_CONTEXT)
    }
    gpt4 = {
        fields.name(row, "question_id", where): fields.text(row, "text", where)
        for where, row in files.jsonl(_REFERENCE)
    }
    rules = _rules(files)
    images = ImageFolder(files, ("images", ""))
    questions: list[Question] = []
    for where, row in files.jsonl(_QUESTIONS):
        key = fields.name(row, "question_id", where)
        image = fields.text(row, "image", where)
        category = one_of(row, "category", _CATEGORIES, where)
        for name, found, what in (
            (_REFERENCE, key in gpt4, f"answer to the question '{key}'"),
            (_CONTEXT, image in captions, f"caption of the image '{image}'"),
        ):
            if not found:
                raise UserError(
                    f"{files.where(name)}: holds no {what} of {where}; the files must be of one "
                    f"version of LLaVA-Bench: download them together ({BENCHMARK.source})"
                )
        asked = fields.text(row, "text", where)
        questions.append(
            Question(
                key=key,
                case=Case(open_parts([images.image(image, where)], asked, options), gpt4[key]),
                references=(gpt4[key],),
                type=category,
                unit=image,
                extra={"question": asked, "caption": captions[image], "rule": rules.get(category)},
                where=where,
            )
        )
    return unique(questions)


def _caption(row: dict[str, Any], where: str) -> str:
    value = row.get("caption")
    return (
        "\n".join(map(str, value))
        if isinstance(value, list)
        else fields.text(row, "caption", where)
    )


def _rules(files: Files) -> dict[str, tuple[str, str]]:
    """Return (role, prompt) of each category; none without the file, which only a judge needs."""
    if not files.exists(_RULES):
        return {}
    where = files.where(_RULES)
    content = files.json(_RULES)
    found: dict[str, tuple[str, str]] = {}
    for category in _CATEGORIES:
        name = f"llava_bench_{category}"
        rule = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rule, dict):
            raise UserError(
                f"{where}: holds no rule '{name}'; put LLaVA's llava/eval/table/rule.json there"
            )
        found[category] = (fields.text(rule, "role", where), fields.text(rule, "prompt", where))
    return found


def judge_prompt(question: Question, answer: str) -> str:
    """Return what eval_gpt_review_bench.py asks. Raises UserError without the file of rules."""
    extra = question.extra
    if extra["rule"] is None:
        raise UserError(
            f"the judge's rules are missing: put LLaVA's llava/eval/table/{_RULES} beside "
            f"{_QUESTIONS}, or ask without a judge"
        )
    role, rule = extra["rule"]
    sections = (
        f"[Context]\n{extra['caption']}",
        f"[Question]\n{extra['question']}",
        f"[{role} 1]\n{question.references[0]}\n\n[End of {role} 1]",
        f"[{role} 2]\n{answer.strip()}\n\n[End of {role} 2]",
        f"[System]\n{rule}",
    )
    return "".join(f"{section}\n\n" for section in sections)


def read_scores(reply: str) -> tuple[float, ...] | None:
    """Return the two scores (of the reference, of the model) in the reply's first line, or None."""
    first = reply.strip().split("\n", 1)[0].replace(",", " ").split()
    try:
        scores = tuple(float(word) for word in first)
    except ValueError:
        return None
    within = all(math.isfinite(score) and 0 <= score <= _BEST for score in scores)
    return scores if len(scores) == 2 and within else None


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return the answers without scores: only a judge gives them."""
    return unjudged(answers)


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return the model's mean score in % of the reference's, overall and per category.

    Failed judgements are in neither mean; `failed` and `judged` count them and the others.
    """
    pairs: dict[str, list[Sequence[float]]] = {}
    failed = 0
    for question, each in zip(questions, grades, strict=True):
        scores = each.detail.get("scores")
        if scores is None:
            failed += 1
            continue
        for name in ("", f"/{question.type}"):
            pairs.setdefault(name, []).append(scores)
    if not pairs:
        return {}
    found = {"judged": float(len(pairs[""])), "failed": float(failed)}
    for name, scores in pairs.items():
        reference, model = (mean(pair[n] for pair in scores) for n in (0, 1))
        if reference:
            found[f"relative{name}"] = 100 * model / reference
        found[f"model_score{name}"] = model
        found[f"reference_score{name}"] = reference
    return found


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the answers as LLaVA's model_vqa.py writes them, for its script of the judge."""
    rows = (
        {
            "question_id": int(question.key) if question.key.isdecimal() else question.key,
            "prompt": question.extra["question"],
            "text": answer.strip(),
            "answer_id": question.key,
            "model_id": "",
            "metadata": {},
        }
        for question, answer in zip(questions, answers, strict=True)
    )
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {"llava_bench_answers.jsonl": "".join(lines).encode()}


BENCHMARK = Benchmark(
    name="llava_bench",
    title="LLaVA-Bench (in the wild)",
    version="1",
    source=(
        "huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild; judge: "
        "https://github.com/haotian-liu/LLaVA (llava/eval: eval_gpt_review_bench.py, "
        "table/rule.json)"
    ),
    files=(
        FileSpec(_QUESTIONS, "questions with image and category"),
        FileSpec(_CONTEXT, "a caption per image, which the judge reads instead of the image"),
        FileSpec(_REFERENCE, "GPT-4's answers, which the model's are compared with"),
        FileSpec(_RULES, "LLaVA's rules for the judge (llava/eval/table); only with a judge"),
        FileSpec("images/", "the images"),
    ),
    splits=("test",),
    train_split=None,
    read=read,
    grade=grade,
    metrics=metrics,
    headline="relative",
    headline_unit="% of the reference's score",
    prompt="`<image>↵{question}`; plain: `<image>Question:{question} Answer:`",
    max_new_tokens=1024,
    submission=submission,
    judged=True,
    rubric=Rubric(
        prompt=judge_prompt,
        read=read_scores,
        score=lambda scores: scores[1] / _BEST,
        published="gpt-4-0314",
        system="You are a helpful and precise assistant for checking the quality of the answer.",
        temperatures=(0.2,),
        max_new_tokens=1024,
    ),
    scoring=(
        "The judge reads caption, question, GPT-4's answer and the model's, and gives both 1 to 10 "
        "in its first line. The model's mean in percent of the reference's, replies that can't be "
        "read left out and counted."
    ),
    disagreements=(
        "Numbers depend on the judge: published ones are of gpt-4-0314, which is no longer served. "
        "LLaVA averages a reply that it can't read in as -1 for both; here it is counted and left "
        "out, and '8, 7' with a blank after the comma is read. LLaVA's summary rounds the two "
        "means to three places before it divides."
    ),
)
