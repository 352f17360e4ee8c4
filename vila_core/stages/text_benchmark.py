"""Stage `text_benchmark`: MMLU, BBH or DROP through lm-evaluation-harness, without images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from vila_core.errors import UserError, require
from vila_core.eval.items import Shots
from vila_core.eval.text_sets import TEXT_SETS
from vila_core.jsonio import dumps
from vila_core.stages._answerers import (
    MeasuredConfig,
    open_endpoint,
    open_folder,
    place_of,
)
from vila_core.stages._folders import model_folder
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.eval.answerer import Answerer
    from vila_core.eval.harness import HarnessModel
    from vila_core.eval.text_sets import Rows, TextSet

Record = dict[str, Any]


class Config(MeasuredConfig):
    """Which benchmark, with which files, and how it is asked."""

    shots: Shots | None = Field(
        default=None, description="numbers of demonstrations; default: 5 for MMLU, 3 for the others"
    )
    subjects: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="of MMLU, or tasks of BBH; default: all"
    )
    seed: int = Field(default=1234, description="of DROP's demonstrations; the others are fixed")
    limit: int | None = Field(
        default=None, gt=0, description="ask the first questions of each subject only"
    )

    @field_validator("benchmark")
    @classmethod
    def _text_only(cls, name: str) -> str:
        if name not in TEXT_SETS:
            raise ValueError(f"text benchmarks are {', '.join(TEXT_SETS)}")
        return name


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Ask the benchmark's questions as plain text; output `results`: records.jsonl, summary.json.

    The model's language path alone is used; no chat template. Answers are kept in `out_dir` as they
    come, so that an interrupted evaluation asks only what is missing. Raises UserError for missing
    or damaged files, and for a prompt that is longer than the model's positions.
    """
    require("lm_eval", extra="harness", why=f"run {config.benchmark}")
    from vila_core.eval import harness
    from vila_core.eval.files import Files
    from vila_core.eval.journal import Journal

    chosen = TEXT_SETS[config.benchmark]
    all_shots = sorted(set(config.shots or (chosen.shots,)))
    chosen.check(max(all_shots))
    files = Files(str(place_of(config.data)), chosen.source)
    names = chosen.choose(harness.known_tasks(chosen.folder), config.subjects)
    rows = {
        name: chosen.read(files, name.removeprefix(chosen.prefix), max(all_shots) > 0)
        for name in names
    }
    counts = [len(splits["test" if "test" in splits else "validation"]) for splits in rows.values()]
    asked = sum(min(count, config.limit or count) for count in counts)
    if asked < sum(counts):
        report.info(f"only {asked:,} of {sum(counts):,} questions are asked")
    answerer = _open(config, inputs, out_dir, report)
    result = _Result(chosen)

    def told(done: int) -> None:
        report.progress(done, asked * len(all_shots), "answers")

    with Journal(out_dir / "answers.jsonl", answerer.describe()) as journal:
        model = harness.HarnessModel(answerer, journal, told)
        for shots in all_shots:
            result.add(shots, _ask(chosen, model, rows, shots, config))
    summary = {
        "benchmark": chosen.name,
        "version": chosen.version,
        "title": chosen.title,
        "split": chosen.split,
        "questions": {"asked": asked, "in_split": sum(counts)},
        "headline": chosen.headline,
        "headline_unit": "%",
        "prompt": f"lm-evaluation-harness {_version()}, tasks/{chosen.folder}",
        "layout": "plain",
        "decoding": "likelihood" if chosen.ranked else "greedy",
        "model": answerer.describe(),
        "subjects": [name.removeprefix(chosen.prefix) for name in names],
        "files": files.digests,
        "metrics": result.metrics,
        "intervals": result.intervals,
        "health": health(result.records),
    }
    folder = out_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{dumps(record)}\n" for record in result.records)
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    (folder / "summary.json").write_text(dumps(summary, indent=1) + "\n", encoding="utf-8")
    return StageResult({"results": folder}, result.metrics)


def _open(config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter) -> Answerer:
    if config.endpoint is None:
        with model_folder(config.model, inputs, out_dir, report) as folder:
            return open_folder(folder, config)
    if TEXT_SETS[config.benchmark].ranked:
        raise UserError(
            f"endpoint: {config.benchmark} ranks options by likelihood, which an endpoint "
            "doesn't give; evaluate the model's folder"
        )
    return open_endpoint(config.endpoint)


def _ask(
    chosen: TextSet, model: HarnessModel, rows: Mapping[str, Rows], shots: int, config: Config
) -> list[Record]:
    """Return the record of every question, in the order of the files."""
    from vila_core.eval import harness

    changes: dict[str, Any] = {}
    if chosen.name == "drop":
        # The harness's own template joins the names of the answer's fields instead of the answer.
        changes["doc_to_target"] = "{{ answers[0] | join(', ') }}"
        if not shots:
            changes["training_split"] = None
    tasks = harness.load_tasks(chosen.folder, rows, shots, config.seed, changes)
    samples = harness.evaluate(model, tasks, config.limit)
    common = {
        "task": chosen.name,
        "version": chosen.version,
        "shots": shots,
        "condition": "seen",
        "seed": config.seed,
        "order": 0,
    }
    return [
        common | _record(chosen, name.removeprefix(chosen.prefix) or chosen.name, sample, model)
        for name in rows
        for sample in samples[name]
    ]


def _record(
    chosen: TextSet, subject: str, sample: Mapping[str, Any], model: HarnessModel
) -> Record:
    """Return what became of a question; the fields are those of every benchmark's records."""
    from vila_core.eval.prompts import Prompt

    context, key = sample["arguments"][0][0], f"{subject}/{sample['doc_id']}"
    detail = {ours: float(sample[theirs]) for theirs, ours in chosen.metrics.items()}
    if chosen.ranked:
        choices = [continuation.strip() for _, continuation in sample["arguments"]]
        nats = [float(nats) for nats, _ in sample["filtered_resps"]]
        answer = parsed = choices[nats.index(max(nats))]
        detail |= {f"nats/{choice}": value for choice, value in zip(choices, nats, strict=True)}
        finished, references = True, [choices[int(sample["target"])]]
    else:
        answer, parsed = str(sample["resps"][0][0]), str(sample["filtered_resps"][0])
        finished, references = model.finished[context], [str(sample["target"])]
    return {
        "key": key,
        "unit": key,
        "type": subject,
        "prompt_digest": Prompt(context, ()).digest(),
        "answer": answer,
        "finished": finished,
        "parsed": parsed,
        "references": references,
        "detail": detail,
        "score": detail[chosen.headline],
    }


class _Result:
    """Records and metrics of a benchmark, over its numbers of shots."""

    def __init__(self, chosen: TextSet) -> None:
        self._chosen = chosen
        self.records: list[Record] = []
        self.metrics: dict[str, float] = {}
        self.intervals: dict[str, dict[str, float]] = {}

    def add(self, shots: int, records: Sequence[Record]) -> None:
        """Add the records of one number of shots: means over all questions, and per subject."""
        self.records += records
        for name in self._chosen.metrics.values():
            self._mean(f"{name}@{shots}", [(r["detail"][name], r["unit"]) for r in records])
        kinds: dict[str, list[tuple[float, str]]] = {}
        for record in records:
            kinds.setdefault(record["type"], []).append((record["score"], record["unit"]))
        for kind, scores in kinds.items() if len(kinds) > 1 else ():
            self._mean(f"{self._chosen.headline}/{kind}@{shots}", scores)

    def _mean(self, name: str, scores: Sequence[tuple[float, str]]) -> None:
        from vila_core.eval.bootstrap import unit_interval

        found = unit_interval([score for score, _ in scores], [unit for _, unit in scores])
        key = f"{self._chosen.name}/{name}"
        self.metrics[key] = found["mean"]
        self.intervals[key] = {"value": found["mean"], "low": found["low"], "high": found["high"]}


def health(records: Sequence[Record]) -> dict[str, int]:
    """Count the answers that say something is wrong with a model."""
    from vila_core.eval.metrics import has_control_characters

    return {
        "answers": len(records),
        "unanswered": sum(not record["answer"] for record in records),
        "unfinished": sum(not record["finished"] for record in records),
        "control_characters": sum(has_control_characters(record["answer"]) for record in records),
    }


def _version() -> str:
    from importlib.metadata import version

    return version("lm-eval")
