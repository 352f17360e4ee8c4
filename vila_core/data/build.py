"""From one corpus's records to its shards, with everything that had to be set aside on the way."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from vila_core.data import journal
from vila_core.data.admission import Admission
from vila_core.data.dedupe import FILE_NAME as SIGNATURES
from vila_core.data.dedupe import Judge, Signatures
from vila_core.data.dedupe.table import MANIFEST_KEY
from vila_core.data.index import FILE_NAME as INDEX
from vila_core.data.index import Index
from vila_core.data.journal import Journal, Position
from vila_core.data.report import CorpusReport
from vila_core.data.sample import SetAside
from vila_core.data.shards import MANIFEST, ShardLimits, ShardWriter
from vila_core.data.supervision import Supervision
from vila_core.data.supply import Supply
from vila_core.data.work import Done, Made, Work
from vila_core.jsonio import read_object


def build_corpus(
    work: Work,
    supply: Supply,
    folder: Path,
    notes: Path,
    *,
    shards: ShardLimits,
    exclude: frozenset[str] = frozenset(),
    judge: Judge | None = None,
    told: Callable[[int, int], None] = lambda records, of: None,
) -> CorpusReport:
    """Take what a corpus's chunks became, admit samples, and write shards and index to `folder`.

    The bytes written depend on the corpus and on `work`, `shards`, `exclude` (sample keys to leave
    out) and what `judge` knows already, not on who did the chunks, nor how often that was killed:
    with the same `notes`, a folder of its own, it goes on after the last shard. `told` hears how
    many records are done, and of how many (0: not known). Raises UserError for a corpus or a file
    of it that can't be read at all; single broken records are counted in the report and listed in
    `journal.set_aside_file(notes)`.
    """
    source = work.source
    report = CorpusReport(source.name, Supervision(source.template))
    if (state := journal.done(notes)) is not None:
        report.restore(state)
        report.manifest = read_object(folder / MANIFEST)
        if judge is not None and (folder / SIGNATURES).exists():
            judge.restore_many(
                Index.load(folder / INDEX).keys(source.name), Signatures.load(folder / SIGNATURES)
            )
        return report
    of = supply.expected()
    log = Journal(notes)
    admission = Admission(
        source.name, judge=judge, dedupe=work.dedupe, rules=source.rules, exclude=exclude
    )
    for number, part in enumerate(log.parts):
        admission.restore(notes, number, part.rows.keys(source.name))
    if log.parts:
        report.restore(log.state)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that ended in its first shard
    start = log.position
    writer = ShardWriter(
        folder, source.name, template=source.template, limits=shards, finished=log.parts
    )
    with writer, contextlib.closing(log):
        for number, done in enumerate(supply.done(start.chunk), start.chunk):
            places = list(_places(number, done, start))
            answers = admission.admit([row for _, row in places])
            for (place, _), answer in zip(places, answers, strict=True):
                if place.sample == 0:
                    report.records += 1
                    report.extra += len(done.records[place.record]) - 1
                report.reported += answer.passed
                if isinstance(answer.row, SetAside):
                    report.set_aside(answer.row)
                    log.set_aside(answer.row)
                    continue
                report.keep(answer.row)
                admission.keep(answer.row)
                if writer.append(answer.row.packed):
                    admission.save(notes, len(log.parts))
                    after = replace(place, sample=place.sample + 1)
                    log.add(writer.part(), after, report.state())
            start = Position()
            told(report.records, of)
        if (held := supply.in_files()) is not None:
            report.not_sampled = held - report.records
            report.records += report.not_sampled
        report.manifest = writer.finish(
            set_aside=report.num_set_aside,
            **supply.facts,
            **_signatures(admission, folder),
        )
        report.check()
        log.finish(report.state())
    return report


def _places(chunk: int, done: Done, start: Position) -> Iterator[tuple[Position, Made | SetAside]]:
    """Yield what came of a chunk with its place in it, from `start` on."""
    for record, found in enumerate(done.records):
        for sample, row in enumerate(found):
            if (record, sample) >= (start.record, start.sample):
                yield Position(chunk, record, sample), row


def _signatures(admission: Admission, folder: Path) -> dict[str, object]:
    path = folder / SIGNATURES
    if not admission.finish(path):
        return {}
    with path.open("rb") as file:
        return {MANIFEST_KEY: hashlib.file_digest(file, "sha256").hexdigest()}
