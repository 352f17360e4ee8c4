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
from vila_core.jsonio import digest
from vila_core.miniature.config import WorldConfig
from vila_core.stages._building import Job, build_all, continue_or_clear, copy_evals, judge_of
from vila_core.stages._corpora import (
    CorpusConfig,
    Limits,
    ReaderConfig,
    brought,
    brought_folder,
    source_of,
)
from vila_core.stages._parts import write_parts
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.data.supply import Share
    from vila_core.data.work import CorpusSource, Work, Worker


class Partition(Frozen):
    """Which part of the corpora is done here."""

    index: int = Field(ge=0, description="counts from 0")
    of: int = Field(ge=1, description="number of parts")

    @model_validator(mode="after")
    def _one_of_them(self) -> Partition:
        if self.index >= self.of:
            raise ValueError(f"index {self.index}: of {self.of} parts, the last is {self.of - 1}")
        return self

    def share(self) -> Share:
        """Return the same for the engine."""
        from vila_core.data.supply import Share

        return Share(self.index, self.of)


class Config(Frozen):
    """What to prepare."""

    not_in_key: ClassVar[tuple[str, ...]] = ("workers",)

    source: Literal["miniature", "corpora"] = Field(
        default="miniature", description="the embedded world, or the corpora listed below"
    )
    miniature: WorldConfig = Field(
        default=WorldConfig.model_validate({}), description="size of the world"
    )
    readers: Mapping[str, ReaderConfig] = Field(
        default={},
        description="with source: miniature: how its corpora are read back, by name, for example "
        "`{mmc4: {rules: {preset: ablation-pairs}}}`",
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
    partition: Partition | None = Field(
        default=None,
        description="do one part of the corpora, `{index: 0, of: 8}`; stage `merge` joins all",
    )
    keep_raw: bool = Field(
        default=False, description="keep the miniature world's raw files in `data/raw`"
    )

    @model_validator(mode="after")
    def _complete(self) -> Config:
        if self.partition is not None and self.keep_raw:
            raise ValueError("keep_raw and partition don't go together")
        if self.source == "miniature":
            if self.corpora or self.tokenizer or self.eval:
                raise ValueError("corpora, tokenizer and eval go with source: corpora")
            for name, reader in self.readers.items():
                reader.check(name)
            return self
        if self.readers:
            raise ValueError("readers go with source: miniature; a corpus has options and rules")
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

    With `partition`, what it holds is one part for stage `merge`, and no corpus to train on.

    Killed anywhere and run again with the same `out_dir`, it goes on after the last finished shard
    and ends with the same bytes. Raises UserError for a corpus that can't be read, or of which too
    much is broken.
    """
    data, raw, notes = out_dir / "data", out_dir / "raw", out_dir / "journal"
    same = digest([config.cache_key(), [_state(place) for place in config.outside()]])
    continue_or_clear(same, data, notes, report)
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
    metrics = _make(config, sources, tokenizer, evals, data, notes, report)
    if evals is not None:
        copy_evals(evals, data / "eval")
    if config.keep_raw and raw.exists():
        raw.rename(data / "raw")
    for folder in (raw, notes):
        shutil.rmtree(folder, ignore_errors=True)
    return StageResult({"data": data}, metrics)


def _state(place: Path | str) -> str:
    return fingerprint(place) if isinstance(place, Path) else state_of(place)


def _write_miniature(config: Config, raw: Path, report: Reporter) -> list[CorpusSource]:
    from vila_core.miniature.world import write_world

    report.info("writing the miniature world in the corpora's formats")
    return [
        source_of(
            CorpusConfig(
                name=corpus.name,
                format=corpus.format,
                path=str(corpus.path),
                images=str(corpus.images) if corpus.images else None,
                template="miniature",
                **config.readers.get(corpus.name, ReaderConfig()).model_dump(),
            ),
            config.max_set_aside,
        )
        for corpus in write_world(raw, config.miniature, report)
    ]


def _make(
    config: Config,
    sources: Sequence[CorpusSource],
    tokenizer: Path,
    evals: Path | None,
    data: Path,
    notes: Path,
    report: Reporter,
) -> dict[str, float]:
    from vila_core.data.pool import cpus
    from vila_core.data.sample import read_keys
    from vila_core.data.shards import ShardLimits
    from vila_core.data.supply import Making
    from vila_core.data.tokenizer import copy_tokenizer
    from vila_core.data.work import SampleLimits, Work

    copy_tokenizer(tokenizer, data / "tokenizer")
    limits = SampleLimits(**config.limits.model_dump())
    shards = ShardLimits(config.shard_samples, config.shard_mib * 2**20)
    dedupe = config.chosen_dedupe()
    works = [Work(source, data / "tokenizer", limits, dedupe) for source in sources]
    count = config.workers or (1 if config.source == "miniature" else cpus())
    share = config.partition and config.partition.share()
    jobs = [
        Job(work, Making(work, worker, workers=count, share=share))
        for work, worker in zip(works, _workers(works), strict=True)
    ]
    if config.partition is not None:
        aside = Path(config.exclude).expanduser() if config.exclude else None
        return write_parts(config.partition, jobs, data, shards, evals, aside, report)
    exclude = read_keys(Path(config.exclude).expanduser()) if config.exclude else frozenset()
    judge = judge_of(dedupe, evals, report) if dedupe else None
    return build_all(jobs, data, notes, shards, exclude, judge, report)


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
