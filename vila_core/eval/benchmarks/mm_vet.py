"""MM-Vet: open questions on six capabilities and their combinations, graded by a judge."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import fields
from vila_core.eval.benchmarks.official import ImageFolder, open_parts, scored
from vila_core.eval.benchmarks.short_answer import mean
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.judge import Rubric, unjudged

_FILE = "mm-vet.json"
_EVALUATOR = "mm-vet_evaluator.py"
_VERSION = "v1_"
_CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


def read(files: Files, options: Options) -> list[Question]:
    """Return the questions in the order of the file."""
    place = files.where(_FILE)
    content = fields.mapping(files.json(_FILE, unique=True), place)
    instruction = _instruction(files)
    images = ImageFolder(files, ("images", ""))
    questions: list[Question] = []
    for key, row in content.items():
        where = f"{place}: {key}"
        if not key.startswith(_VERSION):
            raise UserError(
                f"{where}: is no question of MM-Vet v1 (their ids start with {_VERSION}); put the "
                f"file of v1 there ({BENCHMARK.source})"
            )
        row = fields.mapping(row, where)
        capabilities = row.get("capability")
        if not isinstance(capabilities, list) or not set(capabilities) <= set(_CAPABILITIES):
            raise UserError(
                f"{where}: 'capability' must be a list of {', '.join(_CAPABILITIES)}; download the "
                "file again"
            )
        image = images.image(fields.text(row, "imagename", where), where)
        asked, answer = fields.text(row, "question", where), fields.name(row, "answer", where)
        questions.append(
            Question(
                key=key,
                case=Case(open_parts([image], asked, options), answer),
                references=(answer,),
                type="_".join(name for name in _CAPABILITIES if name in capabilities) or "none",
                extra={
                    "question": asked,
                    "capabilities": sorted(set(capabilities)),
                    "instruction": instruction,
                },
                where=where,
            )
        )
    return unique(questions)


def _instruction(files: Files) -> str | None:
    """Return the judge's instruction out of the official script; None where that isn't there."""
    if not files.exists(_EVALUATOR):
        return None
    try:
        tree = ast.parse(files.text(_EVALUATOR))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{files.where(_EVALUATOR)}: is no Python file: {error}") from None
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if names == ["prompt"] and isinstance(node.value.value, str):
            return node.value.value
    raise UserError(
        f"{files.where(_EVALUATOR)}: sets no `prompt`; put MM-Vet's {_EVALUATOR} there "
        f"({BENCHMARK.source})"
    )


def judge_prompt(question: Question, answer: str) -> str:
    """Return what the official script asks. Raises UserError where the script is missing."""
    instruction = question.extra["instruction"]
    if instruction is None:
        raise UserError(
            f"the judge's instruction is missing: put MM-Vet's {_EVALUATOR} beside {_FILE}, or ask "
            "without a judge"
        )
    truth = question.references[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{instruction}\n" + " | ".join((question.extra["question"], truth, answer.strip(), ""))


def read_score(reply: str) -> tuple[float, ...] | None:
    """Return the first word of the reply as a score from 0 to 1, or None."""
    words = reply.split()
    try:
        score = float(words[0]) if words else -1.0
    except ValueError:
        return None
    return (score,) if 0 <= score <= 1 else None


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return the answers without scores: only a judge gives them."""
    return unjudged(answers)


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return the mean score, that per capability and per combination of capabilities.

    Failed judgements are in no mean; `failed` and `judged` count them and the others.
    """
    each = scored(questions, grades)
    if not each:
        return {}
    kinds: dict[str, list[float]] = {}
    for question, _, score in each:
        single = {f"/{name}" for name in question.extra["capabilities"]}
        for name in ("", *single, f"/only_{question.type}"):
            kinds.setdefault(name, []).append(score)
    found = {f"score{name}": mean(scores) for name, scores in sorted(kinds.items())}
    return found | {"judged": float(len(each)), "failed": float(len(questions) - len(each))}


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return what the official evaluator reads: the answer by id."""
    found = {q.key: answer.strip() for q, answer in zip(questions, answers, strict=True)}
    return {"mm_vet.json": (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()}


BENCHMARK = Benchmark(
    name="mm_vet",
    title="MM-Vet (v1)",
    version="1",
    source="https://github.com/yuweihao/MM-Vet (release v1: mm-vet.zip; mm-vet_evaluator.py)",
    files=(
        FileSpec(_FILE, "questions, answers and capabilities by id"),
        FileSpec("images/", "the images"),
        FileSpec(_EVALUATOR, "the judge's instruction is read out of it; only with a judge"),
    ),
    splits=("test",),
    train_split=None,
    read=read,
    grade=grade,
    metrics=metrics,
    headline="score",
    headline_unit="%",
    prompt="`<image>↵{question}`; plain: `<image>Question:{question} Answer:`",
    max_new_tokens=1024,
    submission=submission,
    judged=True,
    rubric=Rubric(
        prompt=judge_prompt,
        read=read_score,
        score=lambda scores: scores[0],
        published="gpt-4-0613",
        temperatures=(0.0, 0.0, 0.5, 1.0, 1.5),
        again="\nPredict the correctness of the answer (digit): ",
        # The official 3 cut "0.5" down to "0." where a tokenizer writes it in more tokens.
        max_new_tokens=16,
    ),
    scoring=(
        "The judge reads question, truth and answer, and gives 0.0 to 1.0; a reply that doesn't "
        "start with that is asked for up to four more times, warmer. Mean over questions, per "
        "capability and per combination; replies that can't be read are left out and counted."
    ),
    disagreements=(
        "Numbers depend on the judge (published: gpt-4-0613; the paper averages five runs, here is "
        "one). A reply without a score is 0 in the official script and in lmms-eval; here it is "
        "counted and left out. lmms-eval's copy of the instruction differs from the official one."
    ),
)
