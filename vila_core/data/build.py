"""From one corpus on disk to its shards, with everything that had to be set aside on the way."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vila_core.data import journal, pool
from vila_core.data.journal import Journal, Position
from vila_core.data.readers import READERS, Selection, selected
from vila_core.data.readers.files import RecordFile
from vila_core.data.report import CorpusReport
from vila_core.data.sample import SetAside
from vila_core.data.shards import MANIFEST, ShardLimits, ShardWriter
from vila_core.data.supervision import Supervision
from vila_core.data.work import Chunk, Made, Work, Worker
from vila_core.jsonio import read_object

_CHUNK = 32
"""Records per chunk: enough that sending them costs little, few enough to bound the memory."""


def build_corpus(
    work: Work,
    worker: Worker,
    folder: Path,
    notes: Path,
    *,
    shards: ShardLimits,
    workers: int = 1,
    told: Callable[[int], None] = lambda records: None,
) -> CorpusReport:
    """Read a corpus, count its tokens with its template, and write shards and index to `folder`.

    The bytes written depend on the corpus and on `work` and `shards`, not on `workers`, nor on
    how often the work was killed: with the same `notes`, a folder of its own, it goes on after the
    last shard. `told` hears how many records are done. Raises UserError for a corpus or a file of
    it that can't be read at all; single broken records are counted in the report and listed in
    `journal.set_aside_file(notes)`.
    """
    source = work.source
    report = CorpusReport(source.name, Supervision(source.template))
    if (state := journal.done(notes)) is not None:
        report.restore(state)
        report.manifest = read_object(folder / MANIFEST)
        return report
    reader = READERS[source.format]
    files, selection = reader.find(source.path, source.options or reader.options())
    log = Journal(notes)
    if log.parts:
        report.restore(log.state)
    start = log.position
    chunks = itertools.islice(_chunks(files, selection), start.chunk, None)
    writer = ShardWriter(
        folder, source.name, template=source.template, limits=shards, finished=log.parts
    )
    with writer, contextlib.closing(log):
        for number, done in enumerate(pool.do(chunks, worker, work, workers), start.chunk):
            for record, found in enumerate(done.records[start.record :], start.record):
                if not start.sample:
                    report.records += 1
                    report.extra += len(found) - 1
                for sample, one in enumerate(found[start.sample :], start.sample):
                    if _take(one, writer, report, log):
                        after = Position(number, record, sample + 1)
                        log.add(writer.part(), after, report.state())
                start = Position()
            start = Position()  # also when nothing was left of the chunk
            told(report.records)
        report.manifest = writer.finish(
            format=source.format,
            set_aside=report.num_set_aside,
            **_facts(work, worker),
        )
        report.check()
        log.finish(report.state())
    return report


def _take(one: Made | SetAside, writer: ShardWriter, report: CorpusReport, log: Journal) -> bool:
    if isinstance(one, SetAside):
        report.set_aside(one)
        log.set_aside(one)
        return False
    report.keep(one)
    return writer.append(one.packed)


def _facts(work: Work, worker: Worker) -> dict[str, object]:
    source, facts = work.source, {}
    tokenizer = work.tokenizer / "tokenizer.json"
    if tokenizer.exists():
        facts["tokenizer_sha256"] = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    if worker.encoder.chat_template:
        facts["chat_template_sha256"] = worker.encoder.chat_template
    if worker.licence:
        facts["licence"] = worker.licence
    if source.reencode:
        facts["reencode"] = source.reencode.model_dump()
    return facts


def _chunks(files: Sequence[RecordFile], selection: Selection | None) -> Iterator[Chunk]:
    for file in files:
        records = selected(file, selection)
        while some := tuple(itertools.islice(records, _CHUNK)):
            yield Chunk(file.shard, some)
