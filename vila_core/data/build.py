"""From one corpus on disk to its shards, with everything that had to be set aside on the way."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vila_core.data import journal, pool
from vila_core.data.admission import Admission
from vila_core.data.dedupe import FILE_NAME as SIGNATURES
from vila_core.data.dedupe import Judge, Signatures
from vila_core.data.dedupe.table import MANIFEST_KEY
from vila_core.data.index import FILE_NAME as INDEX
from vila_core.data.index import Index
from vila_core.data.journal import Journal, Position
from vila_core.data.readers import Selection, reader_of, selected
from vila_core.data.readers.files import CorpusFile, RecordFile
from vila_core.data.readers.positions import count_records
from vila_core.data.report import CorpusReport
from vila_core.data.sample import SetAside
from vila_core.data.shards import MANIFEST, ShardLimits, ShardWriter
from vila_core.data.supervision import Supervision
from vila_core.data.token_counts import CHAT_KEY, DIGEST_KEY
from vila_core.data.work import Chunk, Done, Made, Work, Worker
from vila_core.jsonio import read_object

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
    judge: Judge | None = None,
    told: Callable[[int, int], None] = lambda records, of: None,
) -> CorpusReport:
    """Read a corpus, count its tokens with its template, and write shards and index to `folder`.

    The bytes written depend on the corpus and on `work`, `shards`, `exclude` (sample keys to leave
    out) and what `judge` knows already, not on `workers`, nor on how often the work was killed:
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
    reader = reader_of(source.format)
    files, selection = reader.find(source.path, source.options or reader.options())
    log = Journal(notes)
    admission = Admission(
        source.name, judge=judge, dedupe=work.dedupe, rules=source.rules, exclude=exclude
    )
    for number, part in enumerate(log.parts):
        admission.restore(notes, number, part.rows.keys(source.name))
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
        if selection is not None:
            report.not_sampled = sum(count_records(file)[0] for file in files) - report.records
            report.records += report.not_sampled
        report.manifest = writer.finish(
            format=source.format,
            set_aside=report.num_set_aside,
            **_facts(work, worker),
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
    facts[DIGEST_KEY] = worker.encoder.digest
    if worker.encoder.chat_template:
        facts[CHAT_KEY] = worker.encoder.chat_template
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
