"""MME: two yes/no questions per image, ten tasks of perception and four of cognition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vila_core.errors import UserError
from vila_core.eval.benchmark import Benchmark, FileSpec, Grade, Options, Question, unique
from vila_core.eval.benchmarks import short_answer as short
from vila_core.eval.benchmarks.official import copies, scored, short_parts
from vila_core.eval.benchmarks.short_answer import mean
from vila_core.eval.files import Files
from vila_core.eval.items import Case
from vila_core.eval.scorers.yesno import COGNITION, PERCEPTION, mme_answer, mme_scores

_BASES = (
    "",
    "MME_Benchmark_release_version",
    "MME_Benchmark_release_version/MME_Benchmark",
    "MME_Benchmark",
)
_SUFFIXES = (".jpg", ".png", ".jpeg")
_BUILT_IN = "Please answer yes or no."


def read(files: Files, options: Options) -> list[Question]:
    """Return both questions of each image, tasks in the order of the paper, images by name."""
    base = _base(files)
    questions: list[Question] = []
    for category in (*PERCEPTION, *COGNITION):
        folder = f"{base}{category}"
        names = files.names(folder)
        texts, images = folder, folder
        if "questions_answers_YN" in names:
            texts, images = f"{folder}/questions_answers_YN", f"{folder}/images"
        stems = [name[:-4] for name in files.names(texts) if name.endswith(".txt")]
        if not stems:
            raise UserError(
                f"{files.where(folder)}: holds no questions of the task {category}; put the whole "
                f"official release there ({BENCHMARK.source})"
            )
        there = set(files.names(images))
        for stem in stems:
            found = (stem + suffix for suffix in _SUFFIXES if stem + suffix in there)
            image = next(found, f"{stem}.jpg")
            ref = files.image(f"{images}/{image}", files.where(f"{texts}/{stem}.txt"))
            for number, (where, asked, label) in enumerate(_lines(files, f"{texts}/{stem}.txt"), 1):
                bare = asked.replace(_BUILT_IN, "").strip()
                questions.append(
                    Question(
                        key=f"{category}/{image}/{number}",
                        case=Case(short_parts([ref], bare, options), label),
                        references=(label.lower(),),
                        type=category,
                        unit=f"{category}/{image}",
                        extra={
                            "file": f"{stem}.txt",
                            "question": asked,
                            "label": label,
                            "layout": options.layout,
                        },
                        where=where,
                    )
                )
    return unique(questions)


def _base(files: Files) -> str:
    for base in _BASES:
        if set(files.names(base)) & {*PERCEPTION, *COGNITION}:
            return f"{base}/" if base else ""
    raise UserError(
        f"{files.root}: holds no folder of a task of MME (existence, count, …); put the official "
        f"release there ({BENCHMARK.source})"
    )


def _lines(files: Files, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield (place, question, label) of an image. Raises UserError unless there are two."""
    count = 0
    for number, line in enumerate(files.text(name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{files.where(name)}:{number}"
        count += 1
        asked, tab, label = line.strip().rpartition("\t")
        if not tab or label.lower() not in ("yes", "no"):
            raise UserError(
                f"{where}: a question, a tab, and Yes or No are needed, found '{line.strip()}'; "
                "download the file again"
            )
        yield where, asked.rstrip("\t"), label
    if count != 2:
        raise UserError(
            f"{files.where(name)}: holds {count} questions, but MME asks two per image; download "
            "the file again"
        )


def grade(questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
    """Return yes, no or other by the first four characters; other is wrong."""
    parsed = [mme_answer(short.said(q, a)) for q, a in zip(questions, answers, strict=True)]
    return [
        Grade(said, float(said == question.references[0]))
        for question, said in zip(questions, parsed, strict=True)
    ]


def metrics(questions: Sequence[Question], grades: Sequence[Grade]) -> dict[str, float]:
    """Return perception, cognition, and acc, acc+ and score per task.

    An image of which only one question was asked (`limit`) counts in nothing.
    """
    each = list(zip(scored(questions, grades), copies(questions), strict=True))
    asked: dict[tuple[str, int], int] = {}
    for (question, _, _), copy in each:
        asked[question.unit, copy] = asked.get((question.unit, copy), 0) + 1
    graded = [
        (question.type, f"{question.unit}#{copy}", score == 1.0)
        for (question, _, score), copy in each
        if asked[question.unit, copy] == 2
    ]
    found = mme_scores(graded)
    return found | {"accuracy": mean(score for (_, _, score), _ in each)}


def submission(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, bytes]:
    """Return the task files that MME's calculation.py reads: file, question, label, answer."""
    lines: dict[str, list[str]] = {}
    for question, answer in zip(questions, answers, strict=True):
        extra = question.extra
        cells = (extra["file"], extra["question"], extra["label"], " ".join(answer.split()))
        lines.setdefault(question.type, []).append("\t".join(cells) + "\n")
    return {f"{category}.txt": "".join(rows).encode() for category, rows in lines.items()}


BENCHMARK = Benchmark(
    name="mme",
    title="MME",
    version="1",
    source=(
        "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation: "
        "release and eval_tool/calculation.py)"
    ),
    files=(
        FileSpec(
            "<task>/*.txt",
            "question, tab, Yes or No, two lines per image; of the fourteen tasks, also below "
            "`MME_Benchmark_release_version/`, and in `<task>/questions_answers_YN/`",
        ),
        FileSpec("<task>/*.jpg, *.png", "the images, beside the questions or in `<task>/images/`"),
    ),
    splits=("test",),
    train_split=None,
    read=read,
    grade=grade,
    metrics=metrics,
    headline="perception",
    headline_unit="points of 2000",
    prompt=(
        f'{short.CHAT_PROMPT}, the question without its "{_BUILT_IN}"; plain: {short.PLAIN_PROMPT}'
    ),
    max_new_tokens=128,
    submission=submission,
    scoring=(
        "An answer is yes or no if the word stands in its first four characters (any case), else "
        "it is wrong. Per task the percentage of questions that are right plus that of images with "
        "both right; perception sums ten tasks, cognition four."
    ),
    disagreements=(
        "The prompt is LLaVA's, which takes the built-in suffix out; VLMEvalKit keeps it. "
        "lmms-eval replaces it too, but also drops periods and reads a lone 'y' or 'n'; the "
        "official tool (used here) looks at the first four characters. The paper's column is "
        "perception; cognition is of 800 points."
    ),
)
