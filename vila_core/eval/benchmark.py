"""What a benchmark is: official files in, questions; answers in, official metrics and files out.

One module per benchmark in `vila_core/eval/benchmarks/`, each with a `BENCHMARK`. A benchmark knows
no model: what is asked, how an answer is read and what it scores are data and pure functions, so
that any model is measured by the same code.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vila_core.errors import UserError
from vila_core.eval.files import Files
from vila_core.eval.items import Case

if TYPE_CHECKING:
    from vila_core.eval.judge import Rubric

NAMES = (
    "vqav2",
    "gqa",
    "vizwiz",
    "scienceqa",
    "textvqa",
    "pope",
    "mme",
    "mmbench",
    "mmbench_cn",
    "seed",
    "llava_bench",
    "mm_vet",
    "okvqa",
    "coco_caption",
    "flickr30k",
    "mmmu",
    "nlvr2",
    "blink",
    "mmlu",
    "bbh",
    "drop",
)
"""All benchmarks, the paper's Table 5 first. The last three are lm-evaluation-harness's."""

TEXT_ONLY = ("mmlu", "bbh", "drop")
"""Those that are run by lm-evaluation-harness, without images."""


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    `key` is the official id, unique in the split. `case` holds the prompt's parts (text and images
    in order, format instruction included) and the answer that it would have as a demonstration
    ("" where the official answer is not public). `type` is the category that results are broken
    down by. `unit` is what bootstrap draws, where questions depend on each other: MME's two
    questions per image, MMBench's rotations; default: the question itself. `images` in `case` are
    in the official order.
    """

    key: str
    case: Case
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()  # texts of the options, A first
    type: str = "all"
    unit: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # what scorer and submission need
    where: str = ""


@dataclass(frozen=True)
class Grade:
    """What became of one answer: as it was read, and its score from 0 to 1.

    `score` is None where it can't be known here (the answers are not public, or a judge is
    missing). `parsed` is what the official post-processing made of the answer. `detail` holds what
    `metrics` needs beside the score.
    """

    parsed: str
    score: float | None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What can be chosen about a benchmark, the split and the limit aside."""

    split: str
    ocr: bool = True  # TextVQA: reference OCR tokens in the prompt
    layout: Literal["chat", "plain"] = "chat"


@dataclass(frozen=True)
class FileSpec:
    """An official file: its name as `Files` knows it, its splits, and what it holds."""

    name: str
    holds: str
    splits: tuple[str, ...] = ()  # empty: all


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the field. `version` is of prompt and post-processing: any change bumps it."""

    name: str
    title: str
    version: str
    source: str  # where the official files and the official scorer are published
    files: tuple[FileSpec, ...]
    splits: tuple[str, ...]  # the default one first
    train_split: str | None  # demonstrations come from here
    read: Callable[[Files, Options], list[Question]]
    grade: Callable[[Sequence[Question], Sequence[str]], list[Grade]]
    metrics: Callable[[Sequence[Question], Sequence[Grade]], dict[str, float]]
    headline: str  # key of the metric that papers print
    headline_unit: str  # "%", "points of 2000", "CIDEr x 100"
    prompt: str  # the prompt in words, for the result and the reference page
    max_new_tokens: int
    submission: Callable[[Sequence[Question], Sequence[str]], dict[str, bytes]] | None = None
    """Official submission files by name, where scoring is remote (or may be)."""
    judged: bool = False
    """Whether a judge model scores the answers (see `vila_core/eval/judge.py`)."""
    rubric: Rubric | None = None
    """How a judge is asked and read, where one scores."""
    scoring: str = ""
    """How an answer is read and scored, in words, for the reference page."""
    disagreements: str = ""
    """Known differences between harnesses, for the reference page."""
    plain_stop: str = "\n"
    """Ends an answer in the plain layout; also joins demonstrations."""
    likelihood: bool = False
    """Whether the options can be ranked by likelihood instead of generated."""
    blind: bool = True
    """Whether the baseline without images has a meaning."""


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name. Raises UserError with the nearest name."""
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(NAMES)}."
        raise UserError(f"there is no benchmark '{name}'; {fix}")
    if name in TEXT_ONLY:
        raise ValueError(f"{name} is run by lm-evaluation-harness")
    return importlib.import_module(f"vila_core.eval.benchmarks.{name}").BENCHMARK


def unique(questions: Sequence[Question]) -> list[Question]:
    """Return the questions. Raises UserError for a key that stands twice, or for none at all."""
    seen: dict[str, str] = {}
    for question in questions:
        if question.key in seen:
            raise UserError(
                f"{question.where}: the question id '{question.key}' stands twice, first at "
                f"{seen[question.key]}; download the file again"
            )
        seen[question.key] = question.where
    if not questions:
        raise UserError("the annotation file holds no questions of this split")
    return list(questions)
