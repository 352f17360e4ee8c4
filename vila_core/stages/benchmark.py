"""Stage `benchmark`: one benchmark, asked of any model and scored as its authors score it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from vila_core.config import Frozen
from vila_core.errors import UserError
from vila_core.eval.benchmark import NAMES, TEXT_ONLY
from vila_core.eval.items import Shots
from vila_core.jsonio import dumps
from vila_core.stages._answerers import (
    AnswererConfig,
    Endpoint,
    EndpointOpener,
    MeasuredConfig,
    ModelOpener,
    open_judge,
    place_of,
)
from vila_core.stages._folders import model_folder
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.eval.benchmark import Benchmark, Options, Question
    from vila_core.eval.files import Files
    from vila_core.eval.results import Round


class Demonstrations(Frozen):
    """How the examples of a few-shot prompt are chosen."""

    how: Literal["random", "rices"] = Field(
        default="random",
        description="or those whose images are most like the question's",
    )
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="of the random draw")
    orders: int = Field(default=1, gt=0, description="shuffled orders of the same demonstrations")
    pool: int = Field(default=2048, gt=0, description="training samples they are chosen from")
    text_only: bool = Field(
        default=False, description="ask again with demonstrations whose images are left out"
    )


class Config(MeasuredConfig):
    """Which benchmark, with which files, asked how."""

    not_in_key = ("processes",)

    split: str | None = Field(default=None, description="default: the one that papers report")
    layout: Literal["auto", "chat", "plain"] = Field(
        default="auto",
        description="chat: by the model's template; plain: as a document goes on; auto: plain as "
        "soon as there are demonstrations",
    )
    shots: Shots = Field(default=(0,), description="numbers of demonstrations to ask with")
    demos: Demonstrations = Demonstrations()
    blind: bool = Field(default=False, description="measure the baseline without images too")
    ocr: bool = Field(default=True, description="TextVQA: give the reference OCR tokens")
    by_likelihood: bool = Field(
        default=False,
        description="rank the options by likelihood instead of reading the generated letter",
    )
    limit: int | None = Field(
        default=None, gt=0, description="ask the first questions only; the result says so"
    )
    judge: Endpoint | None = Field(
        default=None, description="scores the answers of LLaVA-Bench and MM-Vet"
    )
    processes: int = Field(default=1, gt=0, description="that share the questions")

    @field_validator("benchmark")
    @classmethod
    def _with_images(cls, name: str) -> str:
        if name not in NAMES:
            raise ValueError(f"known benchmarks: {', '.join(NAMES)}")
        if name in TEXT_ONLY:
            raise ValueError(f"{name} is text only: it belongs to the stage text_benchmark")
        return name


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Ask the benchmark's questions; output `results`: records.jsonl, summary.json, submission/.

    Answers are kept in `out_dir` as they come, so that an interrupted evaluation asks only what is
    missing. Raises UserError for missing or damaged files, and a model or endpoint that can't be
    asked.
    """
    from vila_core.eval import results
    from vila_core.eval.benchmark import Options, benchmark
    from vila_core.eval.curve import Curve
    from vila_core.eval.curve_view import curve_svg
    from vila_core.eval.files import Files
    from vila_core.eval.sharding import answering
    from vila_core.stages._asking import Judged, Session

    bench = benchmark(config.benchmark)
    files = Files(str(place_of(config.data)), bench.source)
    options = Options(_split(bench, config), config.ocr, _layout(config))
    questions = bench.read(files, options)
    in_split = len(questions)
    questions = questions[: config.limit]
    if len(questions) < in_split:
        report.info(f"only the first {len(questions):,} of {in_split:,} questions are asked")
    pool = _pool(config, bench, files, options)
    rounds = _rounds(config, bench)
    with (
        _opener(config, inputs, out_dir, report) as opener,
        answering(opener, config.processes) as answerer,
    ):
        session = Session(bench, questions, answerer, out_dir, report)
        model = session.model
        demonstrator = session.demonstrator(pool, config.demos, opener) if pool else None
        answered = session.ask(
            rounds, demonstrator, options.layout, by_likelihood=config.by_likelihood
        )
    judged = Judged(bench, config.judge and open_judge(config.judge), out_dir, report)
    answered = [judged.graded(questions, each) for each in answered]
    lines = results.records(bench, questions, answered)
    metrics = results.all_metrics(bench, questions, answered)
    submission = results.submission(bench, questions, answered) | judged.reviews(questions)
    missing = judged.missing or _elsewhere(bench, options.split, metrics, submission)
    summary = {
        "benchmark": bench.name,
        "version": bench.version,
        "title": bench.title,
        "split": options.split,
        "questions": {"asked": len(questions), "in_split": in_split},
        "headline": bench.headline,
        "headline_unit": bench.headline_unit,
        "prompt": bench.prompt,
        "layout": options.layout,
        "ocr": options.ocr if bench.name == "textvqa" else None,
        "decoding": "likelihood" if config.by_likelihood else "greedy",
        "max_new_tokens": bench.max_new_tokens,
        "model": model,
        "demonstrations": config.demos.model_dump() if max(config.shots) else None,
        "files": files.digests,
        "metrics": metrics,
        "intervals": results.intervals(bench, questions, answered),
        "in_context": results.in_context(lines),
        "health": results.health(answered),
        "judge": judged.record(),
        "missing": missing,
    }
    folder = out_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(line.line() for line in lines)
    (folder / "records.jsonl").write_text(text, encoding="utf-8")
    if curves := summary["in_context"].get("curves"):
        found = {name: Curve.of_json(curve) for name, curve in curves.items()}
        (folder / "curve.svg").write_text(curve_svg(found, bench.title), encoding="utf-8")
    for name, content in submission.items():
        (folder / "submission").mkdir(exist_ok=True)
        (folder / "submission" / name).write_bytes(content)
    (folder / "summary.json").write_text(dumps(summary, indent=1) + "\n", encoding="utf-8")
    for line in (*_told(summary["health"]), *([missing] if missing else [])):
        report.info(line)
    return StageResult({"results": folder}, metrics)


def _elsewhere(
    bench: Benchmark, split: str, metrics: Mapping[str, float], submission: Mapping[str, bytes]
) -> str | None:
    """Say where the score is to be had, of a split whose answers are not public."""
    if metrics:
        return None
    files = ", ".join(sorted(submission))
    return (
        f"{bench.name}: the answers of '{split}' are not public, so there is no score here; upload "
        f"submission/{files} of the results as its authors say: {bench.source}"
    )


def _told(health: Mapping[str, int]) -> Iterator[str]:
    """Say what looks wrong with the answers: the numbers alone would hide it."""
    total = health["answers"]
    if health["unanswered"]:
        yield f"{health['unanswered']:,} of {total:,} answers are empty; they count as wrong"
    if health["unfinished"]:
        yield (
            f"{health['unfinished']:,} of {total:,} answers were cut at max_new_tokens: the model "
            "may not know the template's end of an answer"
        )
    if health["control_characters"]:
        yield f"{health['control_characters']:,} of {total:,} answers hold control characters"


def _split(bench: Benchmark, config: Config) -> str:
    split = config.split or bench.splits[0]
    if split not in bench.splits:
        raise UserError(f"split: {bench.name} has no '{split}'; it has: {', '.join(bench.splits)}")
    return split


def _layout(config: Config) -> Literal["chat", "plain"]:
    if config.layout == "auto":
        return "plain" if max(config.shots) else "chat"
    return config.layout


def _rounds(config: Config, bench: Benchmark) -> list[Round]:
    """Return every round; without demonstrations, seeds and orders make no difference."""
    from vila_core.eval.fewshot import orders_of
    from vila_core.eval.records import BLIND, SEEN
    from vila_core.eval.results import TEXT_DEMOS, Round

    blind = config.blind and bench.blind
    rounds = []
    for shots in sorted(set(config.shots)):
        conditions = [SEEN, *([BLIND] if blind else [])]
        if shots and config.demos.text_only:
            conditions.append(TEXT_DEMOS)
        seeds = config.demos.seeds if shots else (0,)
        orders = range(orders_of(shots, config.demos.orders))
        rounds += [
            Round(shots, condition, seed, order)
            for condition in conditions
            for seed in seeds
            for order in orders
        ]
    return rounds


def _pool(config: Config, bench: Benchmark, files: Files, options: Options) -> list[Question]:
    """Return the training questions that demonstrations come from; none without demonstrations."""
    if not max(config.shots):
        return []
    if bench.train_split is None:
        raise UserError(
            f"shots: {bench.name} has no training split to take demonstrations from; ask with "
            "shots=[0]"
        )
    return bench.read(files, replace(options, split=bench.train_split))


@contextmanager
def _opener(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter
) -> Iterator[ModelOpener | EndpointOpener]:
    if config.endpoint is not None:
        yield EndpointOpener(config.endpoint)
        return
    with model_folder(config.model, inputs, out_dir, report) as folder:
        yield ModelOpener(folder, _answering(config))


def _answering(config: Config) -> AnswererConfig:
    return AnswererConfig.model_validate(
        config.model_dump(include=set(AnswererConfig.model_fields))
    )
