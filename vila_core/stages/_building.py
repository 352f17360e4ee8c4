"""What `prepare` and `merge` share: corpora from chunks that are done to shards and a report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.types import Reporter

if TYPE_CHECKING:
    from vila_core.data.dedupe import DedupeConfig, Judge
    from vila_core.data.report import CorpusReport
    from vila_core.data.shards import ShardLimits
    from vila_core.data.supply import Supply
    from vila_core.data.work import CorpusSource, Work


@dataclass(frozen=True)
class Job:
    """One corpus, and where its chunks come from."""

    work: Work
    supply: Supply


def continue_or_clear(same: str, data: Path, notes: Path, report: Reporter) -> None:
    """Leave what an earlier attempt at the same thing did; clear away everything else."""
    stamp = notes / "settings"
    if stamp.is_file() and stamp.read_text() == same:
        report.info("going on after an interrupted attempt")
        return
    for folder in (data, notes):
        shutil.rmtree(folder, ignore_errors=True)
    data.mkdir(parents=True)
    notes.mkdir()
    stamp.write_text(same)


def build_all(
    jobs: Sequence[Job],
    data: Path,
    notes: Path,
    shards: ShardLimits,
    exclude: frozenset[str],
    judge: Judge | None,
    report: Reporter,
) -> dict[str, float]:
    """Write `data/corpora`, `report.json` and `set_aside.jsonl`; return the metrics of the stage.

    Raises UserError for a corpus that can't be read, or of which too much is broken.
    """
    from vila_core.data.build import build_corpus
    from vila_core.data.supervision import table

    reports: list[CorpusReport] = []
    for number, job in enumerate(jobs):
        source = job.work.source

        def told(records: int, of: int, number: int = number) -> None:
            report.progress(number, len(jobs), "corpora", records=records, of=of)

        told(0, 0)
        done = build_corpus(
            job.work,
            job.supply,
            data / "corpora" / source.name,
            notes / source.name,
            shards=shards,
            exclude=exclude,
            judge=judge,
            told=told,
        )
        reports.append(done)
        _write_report(reports, data, notes)
        _check_share(done, source, data)
        report.info(f"{source.name}: {done.kept} samples, {done.num_set_aside} set aside")
    report.progress(len(jobs), len(jobs), "corpora")
    report.info("text tokens that carry loss; image places are not counted")
    for line in table((one.name, one.supervision) for one in reports):
        report.info(line)
    return _metrics(reports)


def judge_of(dedupe: DedupeConfig, evals: Path | None, report: Reporter) -> Judge:
    """Return who compares samples, knowing the evaluation sets already."""
    from vila_core.data.dedupe import Judge
    from vila_core.stages.evalsets import eval_items

    judge = Judge(dedupe)
    for name, items in (eval_items(evals) if evals else {}).items():
        learned = judge.learn_eval(name, items)
        if learned is not None and learned.nothing:
            report.info(f"{name}: nothing of it can be compared with (its texts are short)")
    return judge


def copy_evals(source: Path, target: Path) -> None:
    """Copy evaluation sets. Raises UserError for a folder that holds none."""
    tasks = sorted(path for path in source.iterdir() if path.is_dir()) if source.is_dir() else []
    if not tasks:
        raise UserError(f"{source}: holds no evaluation sets (one folder per task)")
    for task in tasks:
        for name in ("task.json", "items.jsonl"):
            if not (task / name).is_file():
                raise UserError(f"{task}: is not an evaluation set: {name} is missing")
        shutil.copytree(task, target / task.name)


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
