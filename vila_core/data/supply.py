"""Where the chunks of a corpus come from, done: made here from its files, by worker processes."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vila_core.data import pool
from vila_core.data.readers import Selection, reader_of, selected
from vila_core.data.readers.files import CorpusFile, RecordFile
from vila_core.data.readers.positions import count_records
from vila_core.data.token_counts import CHAT_KEY, DIGEST_KEY
from vila_core.data.work import Chunk, Done, Work, Worker

_MOST_COUNTED = 2**30
"""Bytes of JSON lines that are counted before they are read: a second or so."""
_CHUNK = 32
"""Records per chunk: enough that sending them costs little, few enough to bound the memory."""

At = tuple[int, int]
"""Where a chunk belongs in its corpus: number of the file, number in it. Orders all chunks."""


class Supply(Protocol):
    """One corpus as chunks that are done, in the order of its records."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What the manifest says of how the samples were made."""
        ...

    def expected(self) -> int:
        """Return how many records will come, or 0 where finding out would take long."""
        ...

    def done(self, start: int) -> Iterator[Done]:
        """Yield what became of each chunk, from chunk `start` on."""
        ...

    def in_files(self) -> int | None:
        """Return how many records the files hold, where some are left out unread; else None."""
        ...


@dataclass(frozen=True)
class Share:
    """Part `index` of `of` of a corpus's chunks: every file whose number is in turn.

    A corpus of fewer files is dealt out by chunks: all parts read its records, which is cheap next
    to what is made of them, and each works on its own.
    """

    index: int
    of: int


class Making:
    """Reads a corpus as published, the whole of it or a share, and does its chunks.

    The methods raise UserError for a corpus or a file of it that can't be read at all.
    """

    def __init__(
        self, work: Work, worker: Worker, *, workers: int = 1, share: Share | None = None
    ) -> None:
        self._work, self._worker, self._workers = work, worker, workers
        self._share = share or Share(0, 1)
        self._found: tuple[Sequence[RecordFile], Selection | None] | None = None

    @property
    def facts(self) -> Mapping[str, object]:
        """What the manifest says of how the samples were made."""
        source, worker = self._work.source, self._worker
        facts: dict[str, object] = {"format": source.format}
        tokenizer = self._work.tokenizer / "tokenizer.json"
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

    def expected(self) -> int:
        """Return how many records will come, or 0 where finding out would take long."""
        files, selection = self._find()
        if self._share.of > 1:
            return 0
        if selection is not None:
            return sum(map(len, selection.values()))
        paths = [file.path if isinstance(file, CorpusFile) else None for file in files]
        lines = sum(path.stat().st_size for path in paths if path and path.suffix == ".jsonl")
        quick = all(path is not None and path.suffix in (".jsonl", ".parquet") for path in paths)
        if not quick or lines > _MOST_COUNTED:
            return 0
        return sum(count_records(file)[0] for file in files)

    def done(self, start: int) -> Iterator[Done]:
        """Yield what became of each chunk, from chunk `start` on."""
        return (done for _, done in self.placed(start))

    def placed(self, start: int) -> Iterator[tuple[At, Done]]:
        """Do the same, with the place of each chunk."""
        places: deque[At] = deque()

        def noted() -> Iterator[Chunk]:
            for at, chunk in itertools.islice(self._chunks(), start, None):
                places.append(at)
                yield chunk

        for done in pool.do(noted(), self._worker, self._work, self._workers):
            yield places.popleft(), done

    def in_files(self) -> int | None:
        """Return how many records the share's files hold, where some are left out; else None."""
        files, selection = self._find()
        if selection is None:
            return None
        mine = files[self._share.index :: self._share.of]
        return sum(count_records(file)[0] for file in mine)

    def _find(self) -> tuple[Sequence[RecordFile], Selection | None]:
        if self._found is None:
            source = self._work.source
            reader = reader_of(source.format)
            self._found = reader.find(source.path, source.options or reader.options())
        return self._found

    def _chunks(self) -> Iterator[tuple[At, Chunk]]:
        files, selection = self._find()
        index, of = self._share.index, self._share.of
        by_file = len(files) >= of
        turn = 0
        for number, file in enumerate(files):
            if by_file and number % of != index:
                continue
            records = selected(file, selection)
            for place in itertools.count():
                some = tuple(itertools.islice(records, _CHUNK))
                if not some:
                    break
                if by_file or turn % of == index:
                    yield (number, place), Chunk(file.shard, some)
                turn += 1
