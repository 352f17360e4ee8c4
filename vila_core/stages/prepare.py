"""Stage `prepare`: corpora as they are published to shards with their index.

The miniature world takes the same way as a real corpus: it is written in the published formats
first, then read back by the readers of the real ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from vila_core.config import Frozen
from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.raw import is_remote, state_of
from vila_core.data.readers import code_file
from vila_core.errors import UserError
from vila_core.fingerprint import fingerprint
from vila_core.jsonio import digest, dumps
from vila_core.miniature.config import WorldConfig
from vila_core.stages._corpora import CorpusConfig, Limits, brought, brought_folder, source_of
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.data.dedupe import Judge
    from vila_core.data.report import CorpusReport
    from vila_core.data.work import CorpusSource, Work, Worker


class Config(Frozen):
    """What to prepare."""

    not_in_key: ClassVar[tuple[str, ...]] = ("workers",)

    source: Literal["miniature", "corpora"] = Field(
        default="miniature", description="the embedded world, or the corpora listed below"
    )
    miniature: WorldConfig = Field(
        default=WorldConfig.model_validate({}), description="size of the world"
    )
    corpora: tuple[CorpusConfig, ...] = Field(default=(), description="with source: corpora")
    tokenizer: str | None = Field(
        default=None, description="folder of the language model's tokenizer"
    )
    eval: str | None = Field(
        default=None, description="folder of evaluation sets, one folder per task"
    )
    exclude: str | None = Field(
        default=None, description="file of sample keys to leave out, one per line (takedowns)"
    )
    dedupe: DedupeConfig | None = Field(
        default=None,
        description="duplicates and samples of evaluation sets; default: DedupeConfig's own, and "
        "nothing for the miniature world",
    )
    limits: Limits = Field(default=Limits())
    max_set_aside: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of a corpus that may be broken before the stage stops",
    )
    shard_samples: int = Field(default=10_000, ge=1, description="most samples in a shard")
    shard_mib: int = Field(default=256, ge=1, description="size from which on a shard is full")
    workers: int | None = Field(
        default=None,
        ge=1,
        description="processes; default: one per processor, for the miniature world one. The bytes "
        "written are the same",
    )
    keep_raw: bool = Field(
        default=False, description="keep the miniature world's raw files in `data/raw`"
    )

    @model_validator(mode="after")
    def _complete(self) -> Config:
        if self.source == "miniature":
            if self.corpora or self.tokenizer or self.eval:
                raise ValueError("corpora, tokenizer and eval go with source: corpora")
            return self
        if not self.corpora or not self.tokenizer:
            raise ValueError("source: corpora needs at least one entry in corpora, and tokenizer")
        names = [corpus.name for corpus in self.corpora]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two corpora are named '{name}'")
        return self

    def chosen_dedupe(self) -> DedupeConfig | None:
        """Return what is compared, or None where nothing is."""
        if self.dedupe is None:
            # The miniature world's pictures look alike, its few words repeat by chance.
            return None if self.source == "miniature" else DedupeConfig()
        nothing = not self.dedupe.finds_duplicates and self.dedupe.decontaminate == "off"
        return None if nothing else self.dedupe

    def outside(self) -> list[Path | str]:
        """Return what is read: corpora, images, own formats, tokenizer and evaluation sets."""
        named: list[str | Path | None] = [self.tokenizer, self.eval, self.exclude]
        for corpus in self.corpora:
            named += [corpus.path, corpus.images, code_file(corpus.format)]
        return [_place(place) for place in named if place]


def _place(place: str | Path) -> Path | str:
    return str(place) if is_remote(str(place)) else Path(place).expanduser()


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Write `out_dir/data`: corpora, evaluation sets, tokenizer and report (the output `data`).

    Killed anywhere and run again with the same `out_dir`, it goes on after the last finished shard
    and ends with the same bytes. Raises UserError for a corpus that can't be read, or of which too
    much is broken.
    """
    data, raw, notes = out_dir / "data", out_dir / "raw", out_dir / "journal"
    _continue_or_clear(config, data, notes, report)
    for folder in (raw, data / "tokenizer", data / "eval"):
        shutil.rmtree(folder, ignore_errors=True)
    if config.source == "miniature":
        sources = _write_miniature(config, raw, report)
        tokenizer, evals = raw / "tokenizer", raw / "eval"
    else:
        here = notes / "sources"
        corpora = brought(config.corpora, here, report)
        sources = [source_of(corpus, config.max_set_aside) for corpus in corpora]
        named = brought_folder(str(config.tokenizer), here / "tokenizer", report)
        tokenizer = Path(named).expanduser()
        evals = None
        if config.eval:
            evals = Path(brought_folder(config.eval, here / "eval", report)).expanduser()
    reports = _build(config, sources, tokenizer, evals, data, notes, report)
    if evals is not None:
        _copy_evals(evals, data / "eval")
    if config.keep_raw and raw.exists():
        raw.rename(data / "raw")
    for folder in (raw, notes):
        shutil.rmtree(folder, ignore_errors=True)
    return StageResult({"data": data}, _metrics(reports))


def _state(place: Path | str) -> str:
    return fingerprint(place) if isinstance(place, Path) else state_of(place)


def _continue_or_clear(config: Config, data: Path, notes: Path, report: Reporter) -> None:
    """Leave what an earlier attempt at the same thing did; clear away everything else."""
    same = digest([config.cache_key(), [_state(place) for place in config.outside()]])
    stamp = notes / "settings"
    if stamp.is_file() and stamp.read_text() == same:
        report.info("going on after an interrupted attempt")
        return
    for folder in (data, notes):
        shutil.rmtree(folder, ignore_errors=True)
    data.mkdir(parents=True)
    notes.mkdir()
    stamp.write_text(same)


def _write_miniature(config: Config, raw: Path, report: Reporter) -> list[CorpusSource]:
    from vila_core.data.work import CorpusSource
    from vila_core.miniature.world import write_world

    report.info("writing the miniature world in the corpora's formats")
    return [
        CorpusSource(
            corpus.name,
            corpus.format,
            corpus.path,
            corpus.images,
            template="miniature",
            max_set_aside=config.max_set_aside,
        )
        for corpus in write_world(raw, config.miniature, report)
    ]


def _build(
    config: Config,
    sources: Sequence[CorpusSource],
    tokenizer: Path,
    evals: Path | None,
    data: Path,
    notes: Path,
    report: Reporter,
) -> list[CorpusReport]:
    from vila_core.data.build import build_corpus
    from vila_core.data.pool import cpus
    from vila_core.data.sample import read_keys
    from vila_core.data.shards import ShardLimits
    from vila_core.data.supervision import table
    from vila_core.data.tokenizer import copy_tokenizer
    from vila_core.data.work import SampleLimits, Work

    copy_tokenizer(tokenizer, data / "tokenizer")
    limits = SampleLimits(**config.limits.model_dump())
    shards = ShardLimits(config.shard_samples, config.shard_mib * 2**20)
    dedupe = config.chosen_dedupe()
    works = [Work(source, data / "tokenizer", limits, dedupe) for source in sources]
    workers = _workers(works)
    exclude = read_keys(Path(config.exclude).expanduser()) if config.exclude else frozenset()
    judge = _judge(dedupe, evals, report) if dedupe else None
    reports: list[CorpusReport] = []
    for number, (work, worker) in enumerate(zip(works, workers, strict=True)):
        source = work.source

        def told(records: int, of: int, number: int = number) -> None:
            report.progress(number, len(sources), "corpora", records=records, of=of)

        told(0, 0)
        done = build_corpus(
            work,
            worker,
            data / "corpora" / source.name,
            notes / source.name,
            shards=shards,
            workers=config.workers or (1 if config.source == "miniature" else cpus()),
            exclude=exclude,
            judge=judge,
            told=told,
        )
        reports.append(done)
        _write_report(reports, data, notes)
        _check_share(done, source, data)
        report.info(f"{source.name}: {done.kept} samples, {done.num_set_aside} set aside")
    report.progress(len(sources), len(sources), "corpora")
    report.info("text tokens that carry loss; image places are not counted")
    for line in table((one.name, one.supervision) for one in reports):
        report.info(line)
    return reports


def _judge(dedupe: DedupeConfig, evals: Path | None, report: Reporter) -> Judge:
    """Return who compares samples, knowing the evaluation sets already."""
    from vila_core.data.dedupe import Judge
    from vila_core.stages.evalsets import eval_items

    judge = Judge(dedupe)
    for name, items in (eval_items(evals) if evals else {}).items():
        learned = judge.learn_eval(name, items)
        if learned is not None and learned.nothing:
            report.info(f"{name}: nothing of it can be compared with (its texts are short)")
    return judge


def _workers(works: Sequence[Work]) -> list[Worker]:
    """Return a worker for each corpus. A template that can't be served is told before hours."""
    from vila_core.data.work import Worker

    workers: list[Worker] = []
    for work in works:
        try:
            workers.append(Worker(work, workers[0].encoder if workers else None))
        except UserError as error:
            raise UserError(f"corpus '{work.source.name}': {error}") from None
    return workers


def _write_report(reports: Sequence[CorpusReport], data: Path, notes: Path) -> None:
    from vila_core.data.journal import set_aside_file

    summary = {"corpora": {one.name: one.to_json() for one in reports}}
    (data / "report.json").write_text(dumps(summary, indent=2) + "\n", encoding="utf-8")
    with (data / "set_aside.jsonl").open("wb") as file:
        for one in reports:
            with set_aside_file(notes / one.name).open("rb") as rows:
                shutil.copyfileobj(rows, file)


def _check_share(done: CorpusReport, source: CorpusSource, data: Path) -> None:
    if done.broken_share <= source.max_set_aside and done.kept:
        return
    reasons = "\n".join(
        f"  {reason}: {count}, first {first['where']}: {first['detail']}"
        for reason, count in done.reasons.most_common()
        for first in done.examples[reason][:1]
    )
    if not done.kept:
        raise UserError(
            f"corpus '{done.name}' ({source.path}): not one sample is left.\n{reasons}".rstrip()
        )
    raise UserError(
        f"corpus '{done.name}' ({source.path}): {done.broken} of {done.looked_at} records "
        f"({done.broken_share:.1%}) are broken, more than max_set_aside "
        f"({source.max_set_aside:.1%}).\n{reasons}\n"
        f"  fix: repair the records (all are listed in {data / 'set_aside.jsonl'}), or raise "
        "max_set_aside in the prepare section"
    )


def _copy_evals(source: Path, target: Path) -> None:
    tasks = sorted(path for path in source.iterdir() if path.is_dir()) if source.is_dir() else []
    if not tasks:
        raise UserError(f"{source}: holds no evaluation sets (one folder per task)")
    for task in tasks:
        for name in ("task.json", "items.jsonl"):
            if not (task / name).is_file():
                raise UserError(f"{task}: is not an evaluation set: {name} is missing")
        shutil.copytree(task, target / task.name)


def _metrics(reports: Sequence[CorpusReport]) -> dict[str, float]:
    totals = ("samples", "text_tokens", "supervised", "images")
    metrics = {name: float(sum(one.manifest[name] for one in reports)) for name in totals}
    metrics["set_aside"] = float(sum(one.num_set_aside for one in reports))
    for one in reports:
        total = one.supervision.total
        metrics[f"supervised_share/{one.name}"] = total.share
        metrics[f"wholly_masked/{one.name}"] = float(total.wholly_masked)
        metrics[f"over_limit/{one.name}"] = float(total.over_limit)
    return metrics
