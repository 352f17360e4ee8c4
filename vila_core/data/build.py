"""From one corpus on disk to its shards, with everything that had to be set aside on the way."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vila_core.data import journal, pool
from vila_core.data.journal import Journal, Position
from vila_core.data.readers import Selection, reader_of, selected
from vila_core.data.readers.files import CorpusFile, RecordFile
from vila_core.data.readers.positions import count_records
from vila_core.data.report import CorpusReport
from vila_core.data.sample import SetAside
from vila_core.data.shards import MANIFEST, ShardLimits, ShardWriter
from vila_core.data.supervision import Supervision
from vila_core.data.work import Chunk, Made, Work, Worker
from vila_core.jsonio import read_object

EXCLUDED = "excluded"
_MOST_COUNTED = 2**30
"""Bytes of JSON lines that are counted before they are read: a second or so."""
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
    exclude: frozenset[str] = frozenset(),
    told: Callable[[int, int], None] = lambda records, of: None,
) -> CorpusReport:
    """Read a corpus, count its tokens with its template, and write shards and index to `folder`.

    The bytes written depend on the corpus and on `work`, `shards` and `exclude` (sample keys to
    leave out), not on `workers`, nor on how often the work was killed: with the same `notes`, a
    folder of its own, it goes on after the last shard. `told` hears how many records are done, and
    of how many (0: not known). Raises UserError for a corpus or a file of it that can't be read at
    all; single broken records are counted in the report and listed in
    `journal.set_aside_file(notes)`.
    """
    source = work.source
    report = CorpusReport(source.name, Supervision(source.template))
    if (state := journal.done(notes)) is not None:
        report.restore(state)
        report.manifest = read_object(folder / MANIFEST)
        return report
    reader = reader_of(source.format)
    files, selection = reader.find(source.path, source.options or reader.options())
    log = Journal(notes)
    if log.parts:
        report.restore(log.state)
    of = _number(files, selection)
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
                    if _take(one, exclude, writer, report, log):
                        after = Position(number, record, sample + 1)
                        log.add(writer.part(), after, report.state())
                start = Position()
            start = Position()  # also when nothing was left of the chunk
            told(report.records, of)
        if selection is not None:
            report.not_sampled = sum(count_records(file)[0] for file in files) - report.records
            report.records += report.not_sampled
        report.manifest = writer.finish(
            format=source.format,
            set_aside=report.num_set_aside,
            **_facts(work, worker),
        )
        report.check()
        log.finish(report.state())
    return report


def _take(
    one: Made | SetAside,
    exclude: frozenset[str],
    writer: ShardWriter,
    report: CorpusReport,
    log: Journal,
) -> bool:
    """Put one sample into the shard, or set it aside. Returns whether that closed the shard."""
    if isinstance(one, Made) and one.packed.key in exclude:
        one = SetAside(report.name, one.packed.key, EXCLUDED, "named by `exclude`", "rule")
    if isinstance(one, SetAside):
        report.set_aside(one)
        log.set_aside(one)
        return False
    report.keep(one)
    return writer.append(one.packed)


def _number(files: Sequence[RecordFile], selection: Selection | None) -> int:
    """Return how many records will be read, or 0 where finding out would take long."""
    if selection is not None:
        return sum(map(len, selection.values()))
    paths = [file.path if isinstance(file, CorpusFile) else None for file in files]
    lines = sum(path.stat().st_size for path in paths if path and path.suffix == ".jsonl")
    quick = all(path is not None and path.suffix in (".jsonl", ".parquet") for path in paths)
    if not quick or lines > _MOST_COUNTED:
        return 0
    return sum(count_records(file)[0] for file in files)


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
